"""Names of transformers 5, DINOv3 and Mugs, and MMEngine's own Pretrained."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.models import DINOViT
from cotap_mm.weights import load_pretrained
from tests.helpers.foreign_weights import (
    ARCH,
    PATCH,
    SIDE,
    hf_names,
    last_tokens,
    small_vit,
    timm_forward,
    timm_names,
)

PARAMS = timm_names(seed=3)
# transformers 5 renamed the modules, not the files: only state_dict() of a model has these names.
IN_MEMORY = (
    ('encoder.layer.', 'layers.'),
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)


def in_memory(name):
    for old, new in IN_MEMORY:
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize('prefix', ['', 'vit.'])
def test_transformers_5_in_memory(prefix):
    stored = {in_memory(name): value for name, value in hf_names(PARAMS, prefix).items()}
    assert f'{prefix}layers.1.attention.q_proj.bias' in stored
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = small_vit(DINOViT)
    report = load_pretrained(model, stored, source='hf')
    assert not report.missing and not report.unexpected, str(report)
    assert (last_tokens(model, images) - timm_forward(PARAMS, images)).abs().max() < 1e-5


@pytest.mark.slow
def test_outputs_of_the_installed_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=ARCH['embed_dims'],
            num_hidden_layers=ARCH['num_layers'],
            num_attention_heads=ARCH['num_heads'],
            intermediate_size=ARCH['feedforward_channels'],
            image_size=SIDE,
            patch_size=PATCH,
            layer_norm_eps=1e-6,
        ),
        add_pooling_layer=False,
    ).eval()
    theirs.save_pretrained(tmp_path)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs(images).last_hidden_state
    for content in (theirs.state_dict(), tmp_path / 'model.safetensors'):
        model = small_vit(final_norm=True)
        assert not load_pretrained(model, content).missing
        assert (last_tokens(model, images) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize('name', ['storage_tokens', 'embeddings.register_tokens'])
def test_extra_tokens_are_rejected(name):
    with pytest.raises(ValueError, match='no parameter for 1 tensors: backbone.register_tokens'):
        load_pretrained(small_vit(DINOViT), {**PARAMS, name: torch.zeros(1, 4, 16)})


def test_mask_tokens_and_relation_blocks_are_dropped():
    extra = {'mask_token': torch.zeros(1, 16), 'relation_blocks.0.norm1.weight': torch.ones(16)}
    report = load_pretrained(small_vit(DINOViT), {**PARAMS, **extra}, source='mugs')
    assert not report.unexpected and set(extra) <= set(report.dropped)


def test_pretrained_of_mmengine_keeps_position_embeddings(tmp_path):
    source = small_vit(DINOViT)
    load_pretrained(source, PARAMS)
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    model = small_vit(
        DINOViT, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth'))
    )
    model.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
