"""Registers, rotary positions, gated MLPs and norms of queries and keys, in every place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cotap_mm.encoders.vit import CoTAPEncoder, ViTEncoder
from cotap_mm.models import CoTAPViT, DINOViT, ObjectAwareFilter
from cotap_mm.ops import patch_rotation, resize_position_embedding, rotate_patches
from tests.helpers.tiny import build_tiny, make_inputs

SIZES = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
MODERN = dict(SIZES, ffn='swiglu', layer_scale=True, norm_eps=1e-5, qk_norm=True)
OPTIONS = dict(num_registers=3, rope=dict(theta=100.0))


def network(kind=DINOViT, arch=MODERN, **options):
    torch.manual_seed(0)
    options = {**OPTIONS, **options}
    vit = kind(arch=arch, img_size=32, patch_size=8, **options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    vit.eval()  # MMPretrain's returns nothing
    return vit


def rotation_as_a_loop(x, grid, periods):
    """Rotate channel pairs (i, i + c/2) of each patch by complex multiplication."""
    rows, columns = grid
    out, half = x.clone(), x.shape[-1] // 2
    for n in range(rows * columns):
        y = 2 * (n // columns + 0.5) / rows - 1
        z = 2 * (n % columns + 0.5) / columns - 1
        angles = torch.cat([2 * torch.pi * y / periods, 2 * torch.pi * z / periods])
        turned = torch.complex(x[..., n, :half], x[..., n, half:]) * torch.exp(1j * angles)
        out[..., n, :half], out[..., n, half:] = turned.real, turned.imag
    return out


def test_rotation_equals_complex_multiplication():
    periods = 100 ** (torch.arange(2) / 2)
    x = torch.randn(2, 3, 4 + 15, 8)
    rotated = rotate_patches(x, patch_rotation((3, 5), periods))
    torch.testing.assert_close(rotated[:, :, :4], x[:, :, :4])  # CLS and registers
    wanted = rotation_as_a_loop(x[:, :, 4:], (3, 5), periods)
    torch.testing.assert_close(rotated[:, :, 4:], wanted, rtol=0, atol=1e-5)
    half = rotate_patches(x.bfloat16(), patch_rotation((3, 5), periods))
    assert half.dtype == torch.bfloat16  # computed in float32
    torch.testing.assert_close(
        half, rotate_patches(x.bfloat16().float(), patch_rotation((3, 5), periods)).bfloat16()
    )


def slow_block(vit, tokens, grid):
    """Reference of a block: attention in loops over heads, everything written out."""
    block, first = vit.last_block, vit.num_prefix
    normed = F.layer_norm(tokens, (16,), block.ln1.weight, block.ln1.bias, 1e-5)
    bias = block.attn.qkv.bias.clone()
    bias[16:32] = 0  # keys have none
    query, key, value = (normed @ block.attn.qkv.weight.T + bias).chunk(3, dim=-1)
    heads = []
    for h in range(2):
        channels = slice(8 * h, 8 * h + 8)
        q, k = (
            F.layer_norm(x[..., channels], (8,), norm.weight, norm.bias, 1e-5)
            for x, norm in ((query, block.attn.q_norm), (key, block.attn.k_norm))
        )
        q, k = (
            torch.cat(
                [x[:, :first], rotation_as_a_loop(x[:, first:], grid, vit.rope.periods)], dim=1
            )
            for x in (q, k)
        )
        heads.append((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ value[..., channels])
    read = torch.cat(heads, dim=-1) @ block.attn.proj.weight.T + block.attn.proj.bias
    tokens = tokens + block.attn.gamma1.weight * read
    normed = F.layer_norm(tokens, (16,), block.ln2.weight, block.ln2.bias, 1e-5)
    gate, hidden = (normed @ block.ffn.w12.weight.T + block.ffn.w12.bias).chunk(2, dim=-1)
    out = (F.silu(gate) * hidden) @ block.ffn.w3.weight.T + block.ffn.w3.bias
    return tokens + block.ffn.gamma2.weight * out


@torch.no_grad()
def test_block_equals_the_formula_written_out():
    vit = network()
    entering, leaving, grid = vit.forward_tokens(torch.randn(2, 3, 24, 40))
    assert grid == (3, 5) and entering.shape == (2, 1 + 3 + 15, 16)
    torch.testing.assert_close(leaving, slow_block(vit, entering, grid), rtol=0, atol=1e-5)
    torch.testing.assert_close(vit.leaving_cls(entering, grid), leaving[:, 0], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match='needs the grid'):
        vit.run_last(entering)


def slow_filter(neck, vit, patches, grid):
    """Reference of the filter, in loops over patches, heads and cells; nothing is rotated."""
    block, (height, width) = vit.last_block, grid
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias.clone()
    bias[16:32] = 0
    cells = neck.norm_prototypes(neck.prototypes.permute(0, 2, 3, 1))  # (M, 3, 3, d)
    query = block.ln1(patches) @ weight[:16].T + bias[:16]
    key = cells @ weight[16:32].T
    value = (cells @ weight[32:].T + bias[32:]).mean(dim=(1, 2))
    out = torch.zeros_like(patches)
    for y in range(height):
        for x in range(width):
            for h in range(2):
                channels = slice(8 * h, 8 * h + 8)
                logits = torch.zeros(neck.num_prototypes)
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            q = block.attn.q_norm(query[(y + dy) * width + x + dx, channels])
                            k = block.attn.k_norm(key[:, dy + 1, dx + 1, channels])
                            logits = logits + k @ q
                share = (logits * neck.num_prototypes**-0.5).softmax(0)
                out[y * width + x, channels] = share @ value[:, channels]
    filtered = patches + block.attn.gamma1.weight * block.attn.proj(out)
    gate, hidden = block.ffn.w12(block.ln2(filtered)).chunk(2, dim=-1)
    filtered = filtered + block.ffn.gamma2.weight * block.ffn.w3(F.silu(gate) * hidden)
    return neck.norm_patch(torch.cat([patches, filtered], dim=-1))


@torch.no_grad()
def test_filter_equals_loops():
    vit, neck = network(), ObjectAwareFilter(16, num_prototypes=3)
    torch.nn.init.normal_(neck.prototypes)
    tokens = torch.randn(1, 1 + 3 + 15, 16)
    cls, patches = neck(tokens, (3, 5), vit.last_block)
    wanted = slow_filter(neck, vit, tokens[0, 4:], (3, 5))
    torch.testing.assert_close(patches[0], wanted, rtol=1e-4, atol=1e-5)
    attention = neck.attention(tokens, (3, 5), vit.last_block)
    assert cls.shape == (1, 32) and attention.shape == (1, 2, 15, 3)
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 2, 15))


@pytest.mark.parametrize('use_filter', [True, False])
def test_outputs_have_no_registers(use_filter):
    images = torch.randn(2, 3, 24, 40)
    for out_type, shape in (
        ('raw', (2, 16, 16 * (1 + use_filter))),
        ('featmap', (2, 16 * (1 + use_filter), 3, 5)),
        ('cls_token', (2, 16 * (1 + use_filter))),
    ):
        vit = network(
            CoTAPViT, out_indices=[0, 1], out_type=out_type, use_filter=use_filter, num_prototypes=3
        )
        first, last = vit(images)
        assert last.shape == shape and first.shape[1:] == (
            (16, 16) if out_type == 'raw' else (16, 3, 5) if out_type == 'featmap' else (16,)
        )


@torch.no_grad()
def test_one_window_over_the_whole_image_changes_nothing():
    images = torch.randn(2, 3, 32, 32)
    options = dict(use_filter=False, out_indices=-1, global_blocks=[])
    whole, window = (network(CoTAPViT, window_size=size, **options) for size in (0, 4))
    torch.testing.assert_close(window(images), whole(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_windows_keep_the_positions_in_the_image():
    vit = network(CoTAPViT, window_size=2, use_filter=False, global_blocks=[], out_type='raw')
    images = torch.randn(1, 3, 32, 48)
    tokens, grid = vit.embed(images)
    assert grid == (4, 6)
    periods, patches = vit.rope.periods, tokens[:, 4:].unflatten(1, grid)
    wanted = torch.zeros_like(patches)
    full = torch.cat([patches.flatten(1, 2)], 1)
    cos, sin = patch_rotation(grid, periods)
    for y in range(0, 4, 2):
        for x in range(0, 6, 2):
            chosen = torch.zeros(grid, dtype=torch.bool)
            chosen[y : y + 2, x : x + 2] = True
            chosen = chosen.flatten()
            part = torch.cat([tokens[:, :4], full[:, chosen]], 1)
            rotation = type(patch_rotation(grid, periods))(cos[chosen], sin[chosen])
            out = vit.layers[0](part, rotation)[:, 4:]
            wanted[:, y : y + 2, x : x + 2] = out.unflatten(1, (2, 2))
    inside = vit._rotation_in_windows(vit.rotation(grid), grid, 1)
    got = vit._run_in_windows(vit.layers[0], tokens, grid, inside)[:, 4:]
    torch.testing.assert_close(got, wanted.flatten(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize('with_cp', [False, True, 'mlp'])
def test_gradients_reach_every_parameter_but_the_bias_of_keys(with_cp):
    vit = network(with_cp=with_cp)
    vit.train()
    vit(torch.randn(2, 3, 32, 32))[-1].square().sum().backward()
    for name, parameter in vit.named_parameters():
        if name.endswith('qkv.bias'):
            assert not parameter.grad[16:32].any() and parameter.grad[:16].any()
        else:
            assert parameter.grad.abs().sum() > 0, name


def test_a_training_step_and_the_encoders():
    torch.manual_seed(0)
    model = build_tiny(num_registers=2, rope=dict(theta=50.0), layer_scale_init_value=0.1)
    losses = model.loss(make_inputs())
    total = sum(value for name, value in losses.items() if name.startswith('loss_'))
    total.backward()
    assert torch.isfinite(total) and model.backbone.register_tokens.grad.abs().sum() > 0
    images = torch.randn(2, 3, 32, 48)
    encoder = CoTAPEncoder(model)
    cls, patches = encoder(images)
    assert cls.shape == (2, 32) and patches.shape == (2, 32, 4, 6)
    assert [tuple(each.shape) for each in encoder.layers(images)] == [(2, 16, 4, 6)] * 2
    assert encoder.cls_attention(images).shape == (2, 2, 4, 6)
    assert (encoder.cls_attention(images).sum((2, 3)) < 1).all()  # CLS and registers take the rest
    plain = ViTEncoder(model.teacher.backbone)
    torch.testing.assert_close(
        plain.cls_attention(images), CoTAPEncoder(model, 'teacher').cls_attention(images)
    )
    torch.testing.assert_close(
        plain(images)[1], CoTAPEncoder(model, 'teacher', 'backbone')(images)[1]
    )


def test_layer_depths_and_freezing():
    vit = network(CoTAPViT, frozen_stages=1, use_filter=False)
    assert vit.get_layer_depth('backbone.register_tokens', 'backbone.') == (0, 4)
    assert not vit.register_tokens.requires_grad
    assert not any(p.requires_grad for p in vit.layers[0].parameters())
    assert all(p.requires_grad for p in vit.layers[1].parameters())
    vit = network(frozen_stages=1)
    assert not vit.layers[0].attn.q_norm.weight.requires_grad and not vit.training


def test_position_rules():
    grid = torch.randn(1, 1 + 9, 4)
    image = grid[:, 1:].transpose(1, 2).unflatten(2, (3, 3))
    for rule, options in (
        ('dino', dict(scale_factor=(5.1 / 3, 2.1 / 3))),
        ('size', dict(size=(5, 2))),
        ('antialias', dict(size=(5, 2), antialias=True)),
    ):
        wanted = F.interpolate(image, mode='bicubic', **options).flatten(2).transpose(1, 2)
        got = resize_position_embedding(grid, (3, 3), (5, 2), 1, rule)
        torch.testing.assert_close(got, torch.cat([grid[:, :1], wanted], dim=1))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_registers=17), 'num_registers must be 0 to 16, got 17'),
        (dict(num_registers=True), 'num_registers must be 0 to 16'),
        (dict(rope=dict(base=100)), r"option theta .* got \['base'\]"),
        (dict(rope=True), 'rope must be a dict'),
        (dict(rope=dict(theta=1.0)), 'theta must be a number > 1, got 1.0'),
        (dict(pos_resize='bilinear'), "one of dino, size, antialias, got 'bilinear'"),
        (dict(arch=dict(SIZES, ffn='glu')), "ffn must be 'mlp' or 'swiglu', got 'glu'"),
        (dict(arch=dict(SIZES, heads=2)), 'unknown: heads'),
        (dict(arch=dict(embed_dims=16)), 'missing: num_layers, num_heads, feedforward_channels'),
        (dict(arch='dinov4-small'), "arch 'dinov4-small' is unknown; names: .*dinov3-small"),
        (dict(arch=3), 'arch must be a name or a dict, got int'),
        (dict(arch=dict(SIZES, num_heads=3)), 'embed_dims must be a multiple of num_heads'),
        (dict(arch=dict(SIZES, num_heads=8)), 'multiple of 4 channels, got 2'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DINOViT(**{**dict(arch=SIZES, img_size=32, patch_size=8), **OPTIONS, **options})
