"""Networks that are not supported are refused with the reason."""

from __future__ import annotations

import json

import pytest
import torch

from cotap_mm.encoders.load import build_network
from cotap_mm.weights import detect_checkpoint
from cotap_mm.weights.formats.unsupported import check_config
from cotap_mm.weights.named.known import check_registers
from tests.helpers.foreign_weights import hf_names, timm_names

#: Names in the files of networks without a patch embedding that we know, and the reason.
UNKNOWN = {
    'CAPI: it has no CLS token': (
        'backbone.mask_token',
        'backbone.registers',
        'backbone.patch_embed.weight',
        'backbone.encoder.blocks.0.residual1.fn.q_proj.weight',
        'backbone.encoder.blocks.0.residual1.fn.rope.freqs',
    ),
    'the RASA head of Franca: its backbone is in another file': (
        'pre_pos_layers.0.weight',
        'pos_pred.weight',
    ),
    'SigLIP or SigLIP 2: it has no CLS token': (
        'text_model.embeddings.token_embedding.weight',
        'vision_model.embeddings.patch_embedding.weight',
        'vision_model.head.probe',
    ),
    'CLIP: it has a norm before': (
        'vision_model.embeddings.class_embedding',
        'vision_model.embeddings.patch_embedding.weight',
        'vision_model.pre_layrnorm.weight',
    ),
    'CLIP or Perception Encoder': (
        'visual.class_embedding',
        'visual.conv1.weight',
        'visual.transformer.resblocks.0.attn.in_proj_weight',
    ),
    'AIMv2: it has no CLS token': ('embeddings.rms_norm.weight', 'embeddings.patch_embed.weight'),
    'a language model: it embeds words': (
        'bert.embeddings.word_embeddings.weight',
        'bert.encoder.layer.0.attention.self.query.weight',
    ),
    'none of the 1 entries': ('optimizer.weight',),
}


@pytest.mark.parametrize('reason', UNKNOWN)
def test_networks_in_which_no_vit_is_found(reason):
    content = {name: torch.zeros(2, 2) for name in UNKNOWN[reason]}
    with pytest.raises(ValueError, match=f'no ViT found: .*{reason}.*; use a ViT as in DINO'):
        detect_checkpoint(content)


@pytest.mark.parametrize(
    'name, reason',
    [
        ('vit_pe_core_tiny_patch16_384', 'PE.*rotary positions of another form'),
        ('vit_pe_spatial_tiny_patch16_512', 'PE.*rotary positions of another form'),
        ('vit_pe_lang_large_patch14_448', 'PE.*rotary positions of another form'),
        ('eva02_tiny_patch14_224', 'EVA: its rotary positions'),
        ('eva02_enormous_patch14_clip_224', 'EVA: .* norms after the layers'),
        ('vit_base_patch16_siglip_224', 'a CLS token, which SigLIP'),
        ('vit_small_patch16_rope_224', 'only if its rotary positions are those of DINOv3'),
        ('vit_small_patch16_rope_mixed_224', 'rope.freqs; use a ViT'),
    ],
)
def test_state_dicts_of_timm_that_lack_what_the_network_computes(name, reason):
    """Their tensors would fit a plain ViT, whose output is another one."""
    timm = pytest.importorskip('timm')
    if not timm.list_models(name):
        pytest.skip(f'this version of timm has no {name}')
    model = timm.create_model(name, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    with pytest.raises(ValueError, match=reason):
        build_network(detect_checkpoint(model.state_dict()))


def test_architecture_stated_by_timm(tmp_path):
    """The names of its tensors are those of DeiT III, which has no rotary positions."""
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file(timm_names(), str(tmp_path / 'model.safetensors'))
    config = dict(architecture='vit_small_patch16_rope_ape_224', num_heads=2)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='vit_small_patch16_rope_ape_224 of timm has rotary'):
        detect_checkpoint(tmp_path)
    config = dict(architecture='vit_small_patch16_224', num_heads=2)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    assert detect_checkpoint(tmp_path).architecture()['arch']['num_heads'] == 2


@pytest.mark.parametrize(
    'config, message',
    [
        (dict(rope_theta='x'), "only rope_theta .* can be chosen, got rope_theta='x'"),
        (dict(rope_theta=1.0), 'got rope_theta=1.0'),
        (dict(rope_scaling=dict(factor=2)), r"got rope_scaling=\{'factor': 2\}"),
        (dict(rope_parameters=dict(rope_theta=100.0, rope_type='yarn')), "rope_type='yarn'"),
        (dict(rope_parameters=dict(rope_theta=100.0, foo=1)), 'got foo=1'),
        (dict(rope_parameters=3), 'got rope_parameters=3'),
        (dict(hidden_act='quick_gelu'), "hidden_act must be gelu, .* got 'quick_gelu'"),
        (dict(hidden_act='silu'), "hidden_act must be gelu, .* got 'silu'"),
        (dict(architecture='vit_pe_core_base_patch16_224'), 'vit_pe_core_base_patch16_224 of timm'),
    ],
)
def test_options_in_a_config(config, message):
    usual = dict(
        model_type='dinov3_vit',
        rope_theta=100.0,
        rope_parameters=dict(rope_theta=100.0, rope_type='default'),
        hidden_act='gelu',
    )
    check_config(usual)
    check_config(dict(usual, rope_parameters=None, hidden_act='silu', use_gated_mlp=True))
    with pytest.raises(ValueError, match=message):
        check_config({**usual, **config})


@pytest.mark.parametrize(
    'name',
    [
        'weights/dinov2_vits14_reg4_pretrain.pth',
        'https://dl.fbaipublicfiles.com/dinov2/dinov2_vitg14/dinov2_vitg14_reg4_pretrain.pth',
        'dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.pth',
    ],
)
def test_registers_that_a_name_promises(name):
    with pytest.raises(ValueError, match='a network with 4 registers, but the file has 0'):
        check_registers(name, 0)
    check_registers(name, 4)
    check_registers('dinov2_vits14_pretrain.pth', 0)


QUERY = 'vit.encoder.layer.0.attention.attention.query'


@pytest.mark.parametrize(
    'extra',
    [
        {f'{QUERY}.weight': torch.zeros(16, 16, dtype=torch.int8)},
        {f'{QUERY}.SCB': torch.ones(16)},  # bitsandbytes, 8 bits
        {f'{QUERY}.weight.absmax': torch.ones(4)},  # and 4 bits
        {f'{QUERY}.weight.quant_state.bitsandbytes__nf4': torch.zeros(9, dtype=torch.uint8)},
        {f'{QUERY}.qweight': torch.zeros(2, 16, dtype=torch.int32)},  # GPTQ, AWQ
        {f'{QUERY}.weight_scale': torch.ones(16)},  # float8
    ],
)
def test_quantized_weights(extra):
    stored = {**hf_names(timm_names()), **extra}
    with pytest.raises(ValueError, match=r'quantized \(.*query.* use the file that is not quant'):
        detect_checkpoint(stored)


def test_quantized_tensors_of_pytorch(tmp_path):
    stored = timm_names()
    weight = torch.quantize_per_tensor(stored['blocks.0.mlp.fc1.weight'], 0.1, 0, torch.qint8)
    stored['blocks.0.mlp.fc1._packed_params._packed_params'] = (weight, None)
    torch.save(stored, tmp_path / 'int8.pth')
    with pytest.raises(ValueError, match='int8.pth: the weights are quantized .*_packed_params'):
        detect_checkpoint(tmp_path / 'int8.pth')
