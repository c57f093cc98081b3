"""Networks of transformers and timm with random weights, loaded into ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cotap_mm.encoders.load import build_network
from cotap_mm.weights import detect_checkpoint, load_pretrained
from cotap_mm.weights.zoo import architectures

PATCHES = {'dinov2': 14, 'dinov3': 16}


def randomize(model):
    """Draw all parameters: constructors set many to constants that would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = 'norm' in name and name.endswith('weight')
        is_scale = any(part in name for part in ('ls1', 'ls2', 'gamma', 'lambda'))
        parameter.data = 1 + 0.1 * noise if is_norm else 0.5 * noise if is_scale else 0.05 * noise
    return model.eval()


def of_transformers(kind, **options):
    transformers = pytest.importorskip('transformers')
    if kind == 'dinov3' and not hasattr(transformers, 'DINOv3ViTModel'):
        pytest.skip('this version of transformers has no DINOv3')
    size = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
    if kind == 'dinov3':
        config = transformers.DINOv3ViTConfig(
            **size, intermediate_size=192, num_register_tokens=4, image_size=224, **options
        )
        return randomize(transformers.DINOv3ViTModel(config)), config
    name = 'Dinov2WithRegisters' if kind == 'dinov2_reg' else 'Dinov2'
    registers = dict(num_register_tokens=4) if kind == 'dinov2_reg' else {}
    config = getattr(transformers, f'{name}Config')(
        **size, mlp_ratio=2, image_size=70, patch_size=14, **registers, **options
    )
    return randomize(getattr(transformers, f'{name}Model')(config)), config


def of_timm(name, **options):
    timm = pytest.importorskip('timm')
    if not timm.list_models(name.partition('.')[0]):
        pytest.skip(f'this version of timm has no {name}')
    size = dict(embed_dim=128, depth=2, num_heads=2, num_classes=0, dynamic_img_size=True)
    return randomize(timm.create_model(name, **size, **options))


def ours(content):
    """Build our network from a file's content; returns it with its final norm."""
    built = build_network(detect_checkpoint(content))
    assert not built.report.missing and not built.report.unexpected
    return built.vit, built.final_norm


def compare(vit, norm, theirs, images, prefix):
    """Compare CLS and patches, and the gradients of the images."""
    images.requires_grad_()
    wanted = theirs(images)
    got = norm(vit(images)[-1])
    wanted = torch.cat([wanted[:, :1], wanted[:, prefix:]], dim=1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad((features * weights).sum(), images)[0] for features in (got, wanted)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def sizes(patch):
    """Square and other images of 7 to 37 patches a side: 98 to 518 pixels for patches of 14."""
    return [(7 * patch, 7 * patch), (9 * patch, 16 * patch), (37 * patch, 5 * patch)]


@pytest.mark.parametrize(
    'kind, options',
    [
        ('dinov2', {}),
        ('dinov2', dict(use_swiglu_ffn=True)),
        ('dinov2_reg', {}),
        ('dinov2_reg', dict(use_swiglu_ffn=True)),
        ('dinov3', {}),
        ('dinov3', dict(use_gated_mlp=True, hidden_act='silu')),
        ('dinov3', dict(key_bias=True)),
        ('dinov3', dict(rope_theta=50.0)),
    ],
)
def test_transformers(kind, options, tmp_path):
    model, config = of_transformers(kind, **options)
    model.save_pretrained(tmp_path)
    vit, norm = ours(tmp_path)
    patch = PATCHES[kind[:6]]
    prefix = 1 + (4 if kind != 'dinov2' else 0)
    for height, width in sizes(patch):
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        compare(vit, norm, lambda x: model(x).last_hidden_state, images, prefix)
    if 'theta' in str(options) or 'key_bias' in str(options):
        return  # only its config states it
    state = build_network(detect_checkpoint(model.state_dict())).vit.state_dict()
    torch.testing.assert_close(state, vit.state_dict())


@pytest.mark.parametrize(
    'name, options',
    [
        ('vit_small_patch14_dinov2', dict(img_size=70)),
        ('vit_small_patch14_reg4_dinov2', dict(img_size=70)),
        ('vit_giant_patch14_reg4_dinov2', dict(img_size=70)),
        ('vit_small_patch16_dinov3', {}),
        ('vit_small_patch16_dinov3_qkvb', {}),
        ('vit_small_plus_patch16_dinov3', {}),
        ('vit_huge_plus_patch16_dinov3_qkvb', {}),
        ('vit_7b_patch16_dinov3', {}),
        ('vit_tiny_patch16_dinov3_qkvb', {}),  # EUPE
        ('deit3_small_patch16_224', {}),
        ('vit_base_patch16_224.dino', dict(reg_tokens=3, qk_norm=True)),
    ],
)
def test_timm(name, options, monkeypatch):
    from cotap_mm.weights.named import timm_models

    model = of_timm(name, **options)
    monkeypatch.setattr(timm_models, 'create_timm', lambda *_, **__: model)
    vit, norm = ours(f'timm:{name}')
    for height, width in sizes(vit.patch_size):
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        compare(vit, norm, model.forward_features, images, model.num_prefix_tokens)


def test_cls_attention_is_the_softmax_written_out(tmp_path):
    transformers = pytest.importorskip('transformers')
    for kind in ('dinov2_reg', 'dinov3'):
        model, config = of_transformers(kind)
        config._attn_implementation = 'eager'
        model.save_pretrained(tmp_path)
        model = getattr(transformers, type(model).__name__).from_pretrained(
            tmp_path, attn_implementation='eager'
        )
        vit, _ = ours(tmp_path)
        patch = vit.patch_size
        images = torch.randn(2, 3, 6 * patch, 4 * patch)
        wanted = model(images, output_attentions=True).attentions[-1][:, :, 0, 5:]
        entering, leaving, grid = vit.forward_tokens(images)
        torch.testing.assert_close(vit.cls_attention(entering, grid), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            vit.leaving_cls(entering, grid), leaving[:, 0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    'name, arch, registers',
    [
        ('vit_small_patch14_dinov2', 'dinov2-small', 0),
        ('vit_base_patch14_reg4_dinov2', 'dinov2-reg-base', 4),
        ('vit_large_patch14_reg4_dinov2', 'dinov2-reg-large', 4),
        ('vit_giant_patch14_reg4_dinov2', 'dinov2-reg-giant', 4),
        ('vit_small_patch16_dinov3_qkvb', 'dinov3-small', 4),
        ('vit_small_plus_patch16_dinov3_qkvb', 'dinov3-small-plus', 4),
        ('vit_base_patch16_dinov3_qkvb', 'dinov3-base', 4),
        ('vit_large_patch16_dinov3_qkvb', 'dinov3-large', 4),
        ('vit_huge_plus_patch16_dinov3_qkvb', 'dinov3-huge-plus', 4),
    ],
)
def test_named_architectures_have_the_shapes_of_released_files(name, arch, registers):
    timm = pytest.importorskip('timm')
    from cotap_mm.models import DINOViT
    from cotap_mm.weights.formats.naming import rename

    if not timm.list_models(name):
        pytest.skip(f'this version of timm has no {name}')
    with torch.device('meta'):
        theirs = timm.create_model(name, num_classes=0)
        mine = DINOViT(arch=arch, patch_size=theirs.patch_embed.patch_size[0], img_size=518)
    wanted = {n[9:]: tuple(v.shape) for n, v in rename('timm', theirs.state_dict()).tensors.items()}
    got = {n: tuple(v.shape) for n, v in mine.state_dict().items()}
    norm = {n for n in wanted if n.startswith('ln1.')}
    assert set(wanted) - norm == set(got) - {'rope.periods'}
    different = {n for n in set(got) & set(wanted) if got[n] != wanted[n]}
    assert different <= {'pos_embed'} and mine.num_registers == registers
    assert mine.layers[0].ln1.eps == theirs.blocks[0].norm1.eps
    assert isinstance(theirs.norm, nn.LayerNorm) and arch in architectures()


def authors_names(vit, norm):
    """Content of a DINOv3 file of its authors: masks of biases, periods rounded to bfloat16."""
    content = {
        'mask_token': torch.zeros(1, 128),
        'storage_tokens': vit.register_tokens,
        'rope_embed.periods': vit.rope.periods.bfloat16().float(),
        'norm.weight': norm.weight,
        'norm.bias': norm.bias,
        'local_cls_norm.weight': torch.ones(128),
    }
    names = {'projection': 'proj', 'ln1': 'norm1', 'ln2': 'norm2', 'layers.0.0': 'fc1'}
    for name, value in vit.state_dict().items():
        if name in ('register_tokens', 'rope.periods'):
            continue
        name = name.replace('layers.', 'blocks.', 1).replace('ffn.', 'mlp.')
        name = name.replace('attn.gamma1.weight', 'ls1.gamma').replace(
            'mlp.gamma2.weight', 'ls2.gamma'
        )
        for ours_, theirs in names.items():
            name = name.replace(f'.{ours_}.', f'.{theirs}.')
        name = name.replace('mlp.layers.1.', 'mlp.fc2.')
        if '.mlp.w12.' in name:
            for part, half in zip(('w1', 'w2'), value.chunk(2)):
                content[name.replace('w12', part)] = half
        elif name.endswith('qkv.bias'):
            mask = torch.ones(384)
            mask[128:256] = 0
            content[name] = torch.where(mask == 0, torch.full_like(value, 7.0), value)
            content[f'{name}_mask'] = mask
        else:
            content[name] = value
    return {name: value.detach().clone() for name, value in content.items()}


@pytest.mark.parametrize('gated', [False, True])
def test_names_of_the_authors_of_dinov3(gated, tmp_path):
    options = dict(use_gated_mlp=True, hidden_act='silu') if gated else {}
    of_transformers('dinov3', **options)[0].save_pretrained(tmp_path)
    vit, norm = ours(tmp_path)
    content = authors_names(vit, norm)
    built = build_network(detect_checkpoint(dict(model=content)))
    assert torch.equal(built.vit.rope.periods, content['rope_embed.periods'])  # as they are
    built.vit.rope.periods.copy_(vit.rope.periods)
    images = torch.randn(1, 3, 96, 160)
    torch.testing.assert_close(built.vit(images)[-1], vit(images)[-1], rtol=0, atol=1e-6)
    assert built.vit.layers[0].ln1.eps == 1e-5
    assert torch.equal(built.final_norm.weight, norm.weight)
    lost = {name: value for name, value in content.items() if 'bias_mask' not in name}
    with pytest.raises(ValueError, match='has a bias for keys, which DINOv3 sets to zero'):
        detect_checkpoint(lost)
    lost = {name: value for name, value in content.items() if 'storage_tokens' not in name}
    with pytest.raises(ValueError, match='the file lacks 1 tensors.*register_tokens'):
        load_pretrained(vit, lost)
    if gated:
        lost = {name: value for name, value in content.items() if name != 'blocks.1.mlp.w2.weight'}
        with pytest.raises(ValueError, match='blocks.1.mlp is gated .* lacks the weight'):
            detect_checkpoint(lost)
