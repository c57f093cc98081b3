"""Names of transformers 5, DINOv3, Franca and Mugs, and MMEngine's own Pretrained."""

from __future__ import annotations

import re

import pytest
import torch

from cotap_mm.encoders.load import build_network
from cotap_mm.models import DINOViT
from cotap_mm.weights import detect_checkpoint, load_pretrained
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


def franca_file(seed=0):
    """A file of Franca at toy size: the teacher, gated MLPs, layer scale, blocks in chunks."""
    generator = torch.Generator().manual_seed(seed)
    plain = timm_names(seed=seed, depth=4)
    stored = {name: value for name, value in plain.items() if '.mlp.' not in name}
    for index in range(4):
        for name, shape in (
            ('mlp.w12.weight', (64, 16)),
            ('mlp.w12.bias', (64,)),
            ('mlp.w3.weight', (16, 32)),
            ('mlp.w3.bias', (16,)),
            ('ls1.gamma', (16,)),
            ('ls2.gamma', (16,)),
        ):
            value = torch.randn(*shape, generator=generator) * 0.3
            stored[f'blocks.{index}.{name}'] = value
    stored['mask_token'] = torch.zeros(1, 16)
    chunked = {
        re.sub(
            r'^blocks\.(\d)', lambda match: f'blocks.{int(match[1]) // 2}.{match[1]}', name
        ): value
        for name, value in stored.items()
    }
    extra = {f'rasa_head.pre_pos_layers.{index}.weight': torch.zeros(2, 16) for index in range(8)}
    extra['rasa_head.pos_pred.weight'] = torch.zeros(2, 16)
    return stored, {**chunked, **extra}


def test_franca():
    """Blocks in chunks, and a RASA head, which debiases the output and is not used."""
    stored, chunked = franca_file()
    assert 'blocks.1.3.mlp.w12.weight' in chunked and 'blocks.0.0.ls1.gamma' in chunked
    heads = {'dino_head.mlp.0.weight': torch.zeros(2, 16)}
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    networks = []
    for content in (
        stored,
        dict(teacher=chunked),
        dict(teacher={f'module.backbone.{n}': v for n, v in chunked.items()} | heads),
    ):
        detected = detect_checkpoint(content)
        built = build_network(detected, num_heads=2)
        assert not built.report.missing and not built.report.unexpected
        assert detected.pos_resize == 'dino'  # bicubic, with its offset of 0.1
        networks.append(built)
    assert any(name.startswith('rasa_head.') for name in networks[1].report.dropped)
    arch = detect_checkpoint(dict(teacher=chunked)).architecture(2)['arch']
    assert arch == dict(
        embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32, ffn='swiglu'
    )
    for network in networks[1:]:
        assert torch.equal(network.vit(images)[-1], networks[0].vit(images)[-1])
        assert torch.equal(network.final_norm.weight, stored['norm.weight'])


def test_franca_at_the_shapes_of_its_files():
    """175 and 343 tensors in a file of ViT-B and ViT-L, as its release states."""
    for arch, count in (('franca-base', 175), ('franca-large', 343)):
        with torch.device('meta'):
            vit = DINOViT(arch=arch, patch_size=14, img_size=518)
        mask_and_norm = 3
        assert len(vit.state_dict()) + mask_and_norm == count
        assert tuple(vit.pos_embed.shape) == (1, 37**2 + 1, vit.embed_dims)


def test_blocks_of_the_same_number_in_two_chunks():
    _, chunked = franca_file()
    twice = {**chunked, 'blocks.0.3.ls1.gamma': torch.zeros(16)}
    with pytest.raises(ValueError, match='1 tensors of blocks have .* several chunks'):
        detect_checkpoint(dict(teacher=twice))


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
