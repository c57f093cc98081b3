from __future__ import annotations

import math

import pytest
import torch
from mmpretrain.models import VisionTransformer
from timm.models import vision_transformer as timm_vit
from torch import nn

from cotap_mm.encoders.encoder import eval_mode
from cotap_mm.evaluation import CoTAPEncoder, TimmEncoder, ViTEncoder, normalize_images
from tests.helpers.tiny import build_tiny


class FakeAlgorithm(nn.Module):
    """Computes the mean color of each patch, and records its arguments."""

    patch_size = 8

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)

    def encode(self, images, network='student', output='filter'):
        self.arguments = (tuple(images.shape), network, output, self.dropout.training)
        patches = nn.functional.avg_pool2d(images, self.patch_size) * self.scale
        return patches.mean(dim=(2, 3)), patches


def tiny_vit(**kwargs):
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    return VisionTransformer(arch=arch, img_size=32, patch_size=8, **kwargs)


def test_passes_network_and_output_on():
    algorithm = FakeAlgorithm().train()
    found = CoTAPEncoder(algorithm, network='teacher', output='backbone')(torch.rand(2, 3, 16, 24))
    assert algorithm.arguments == ((2, 3, 16, 24), 'teacher', 'backbone', False)
    assert found.cls.shape == (2, 3) and found.patches.shape == (2, 3, 2, 3)
    assert algorithm.training and algorithm.dropout.training
    assert not found.patches.requires_grad


@pytest.mark.parametrize('side, patches', [(3, 1), (11, 1), (12, 2), (16, 2), (20, 3), (28, 4)])
def test_resizes_to_the_nearest_multiple(side, patches):
    encoder = CoTAPEncoder(FakeAlgorithm())
    assert encoder.grid(side, 16) == (patches, 2)
    assert encoder(torch.rand(1, 3, side, 16)).patches.shape[2:] == (patches, 2)


def test_resized_map_covers_the_whole_image():
    images = torch.zeros(1, 3, 20, 16)
    images[:, :, 10:] = 1
    column = CoTAPEncoder(FakeAlgorithm())(images).patches[0, 0, :, 0]  # 3 patches on 20 pixels
    assert column[0] == pytest.approx(0, abs=0.05)
    assert column[1] == pytest.approx(0.5, abs=0.05)
    assert column[2] == pytest.approx(1, abs=0.05)


def test_errors_list_the_valid_names():
    with pytest.raises(ValueError, match='student, teacher'):
        CoTAPEncoder(FakeAlgorithm(), network='ema')
    with pytest.raises(ValueError, match='filter, backbone'):
        CoTAPEncoder(FakeAlgorithm(), output='head')


def test_rejects_bytes_and_other_shapes():
    encoder = CoTAPEncoder(FakeAlgorithm())
    with pytest.raises(ValueError, match='uint8'):
        encoder(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r'\(3, 16, 16\)'):
        encoder(torch.zeros(3, 16, 16))


def test_vit_tokens_are_cls_and_map():
    vit = tiny_vit(out_type='raw')
    vit.eval()  # eval() of MMPretrain does not return the module
    images = torch.rand(2, 3, 16, 32)
    found = ViTEncoder(vit)(images)
    tokens = vit(images)[-1]
    assert torch.equal(found.cls, tokens[:, 0])
    assert torch.equal(found.patches[1, :, 1, 2], tokens[1, 1 + 1 * 4 + 2])


def test_vit_without_raw_tokens_is_rejected():
    with pytest.raises(ValueError, match="out_type='raw'"):
        ViTEncoder(tiny_vit(out_type='cls_token'))


def test_normalize_images():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    found = normalize_images(pixels)
    assert found[0, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, 0.515 / 0.229])
    assert found[0, 2, 0].tolist() == pytest.approx([-0.406 / 0.225, 0.594 / 0.225])
    with pytest.raises(TypeError, match='uint8'):
        normalize_images(found)


def test_eval_mode_restores_the_mode_of_each_part():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    with pytest.raises(KeyError), eval_mode(model):
        assert not model.training and not model[0].training
        raise KeyError
    assert model.training and model[0].training and not model[1].training


def test_layers_are_the_blocks_outputs():
    vit = tiny_vit(out_type='raw', out_indices=[0, 1], final_norm=False)
    vit.eval()
    images = torch.rand(2, 3, 16, 32)
    first, last = ViTEncoder(vit).layers(images)
    for found, tokens in zip((first, last), vit(images)):
        assert found.shape == (2, 32, 2, 4)
        assert torch.equal(found[1, :, 1, 2], tokens[1, 1 + 1 * 4 + 2])
    assert not any(block._forward_hooks for block in vit.layers)


def test_cotap_encoder_observes_the_chosen_network():
    torch.manual_seed(0)
    algorithm = build_tiny()
    for value in algorithm.teacher.parameters():
        torch.nn.init.normal_(value, std=0.2)
    images = torch.rand(2, 3, 32, 24)
    for network in ('student', 'teacher'):
        encoder = CoTAPEncoder(algorithm, network, 'backbone')
        net = algorithm.network(network)
        with torch.no_grad(), eval_mode(algorithm):
            entering, leaving, grid = net.backbone.forward_tokens(images)
            attention = net.backbone.cls_attention(entering).unflatten(2, grid)
        torch.testing.assert_close(
            encoder.layers(images)[-1].flatten(2).transpose(1, 2), leaving[:, 1:]
        )
        torch.testing.assert_close(encoder.cls_attention(images), attention)
        assert torch.equal(encoder.foreground(images), algorithm.foreground(images, network))
        assert encoder.prototype_attention(images).shape[2:4] == grid
    with pytest.raises(NotImplementedError, match='no object-aware filter'):
        ViTEncoder(tiny_vit(out_type='raw')).prototype_attention(images)


def tiny_timm(**kwargs):
    torch.manual_seed(0)
    return timm_vit.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
        **kwargs,
    ).eval()


@pytest.mark.parametrize(
    'kwargs',
    [dict(), dict(reg_tokens=2), dict(qk_norm=True), dict(class_token=False, global_pool='avg')],
)
def test_timm(kwargs):
    model = tiny_timm(**kwargs)
    model.pretrained_cfg = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    encoder = TimmEncoder(model)
    pixels = torch.randint(0, 256, (2, 3, 16, 32), dtype=torch.uint8)
    cls, patches = encoder(normalize_images(pixels))
    with torch.no_grad():
        tokens = model.forward_features(pixels / 255 * 2 - 1)
    prefix = model.num_prefix_tokens
    torch.testing.assert_close(patches[1, :, 1, 2], tokens[1, prefix + 6], rtol=1e-4, atol=1e-4)
    wanted = tokens[:, 0] if model.has_class_token else tokens.mean(dim=1)
    torch.testing.assert_close(cls, wanted, rtol=1e-4, atol=1e-4)
    assert [each.shape for each in encoder.layers(normalize_images(pixels))] == [(2, 32, 2, 4)] * 2
    if not model.has_class_token:
        with pytest.raises(NotImplementedError, match='no CLS token'):
            encoder.cls_attention(normalize_images(pixels))
        return
    check_timm_attention(model, pixels)


def check_timm_attention(model, pixels):
    """Compare the attention of CLS with the weights that timm's unfused attention computes."""
    images = normalize_images(pixels)
    encoder = TimmEncoder(model)
    attention = model.blocks[-1].attn
    found = encoder.cls_attention(images)
    assert attention.fused_attn and not attention._forward_hooks and not model.training
    attention.fused_attn = False
    kept = []
    handle = attention.attn_drop.register_forward_hook(lambda *parts: kept.append(parts[2]))
    encoder(images)
    handle.remove()
    assert torch.equal(encoder.cls_attention(images), found)  # also without fused attention
    assert attention.fused_attn is False and len(kept) == 1
    wanted = kept[0][:, :, 0, model.num_prefix_tokens :]
    torch.testing.assert_close(found.flatten(2), wanted, rtol=0, atol=1e-6)
    assert found.shape[2:] == encoder.grid(*pixels.shape[2:])


@pytest.mark.parametrize(
    'name, options',
    [
        ('vit_small_patch16_dinov3', {}),  # rotary positions, four registers
        ('vit_small_patch16_dinov3_qkvb', {}),
        ('vit_small_plus_patch16_dinov3', {}),
        ('vit_small_patch16_dinov3', dict(qk_norm=True)),
        ('vit_small_patch16_rope_mixed_224', {}),  # other rotary positions in each block
        ('vit_pe_spatial_tiny_patch16_512', {}),
        ('beitv2_base_patch16_224', {}),  # relative positions
    ],
)
def test_attention_in_other_vits_of_timm(name, options):
    timm = pytest.importorskip('timm')
    if not timm.list_models(name):
        pytest.skip(f'this version of timm has no {name}')
    torch.manual_seed(0)
    size = dict(embed_dim=32, depth=2, num_heads=2, num_classes=0)
    model = timm.create_model(name, **size, **options).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    side = model.patch_embed.img_size[0]
    height = side if model.patch_embed.strict_img_size else 32
    check_timm_attention(
        model, torch.randint(0, 256, (1, 3, height, side if height == side else 48)).byte()
    )


def test_attention_of_dinov3_of_timm_written_out():
    """Rotations, softmax and scale by hand, for one head and image."""
    timm = pytest.importorskip('timm')
    if not timm.list_models('vit_small_patch16_dinov3'):
        pytest.skip('this version of timm has no DINOv3')
    torch.manual_seed(0)
    size = dict(embed_dim=16, depth=1, num_heads=2, num_classes=0, dynamic_img_size=True)
    model = timm.create_model('vit_small_patch16_dinov3', **size).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    pixels = torch.randint(0, 256, (1, 3, 32, 48)).byte()
    encoder = TimmEncoder(model)
    found = encoder.cls_attention(normalize_images(pixels))[0, 1].flatten()
    entering = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: entering.append(inputs[0]))
    encoder(normalize_images(pixels))
    tokens = model.blocks[0].norm1(entering[0])[0]  # CLS, 4 registers, 2 x 3 patches
    query, key, _ = model.blocks[0].attn.qkv(tokens).chunk(3, dim=1)
    query, key = query[0, 8:].tolist(), key[:, 8:].tolist()  # the second head
    logits = []
    for place, values in enumerate(key):
        if place >= 5:
            row, column = divmod(place - 5, 3)
            turned = list(values)
            for pair in range(4):  # channels i and i + 4: two periods of the row, two of the column
                center = ((row + 0.5) / 2, (column + 0.5) / 3)[pair // 2] * 2 - 1
                angle = 2 * math.pi * center / 100 ** ((pair % 2) / 2)
                first, second = values[pair], values[pair + 4]
                turned[pair] = first * math.cos(angle) - second * math.sin(angle)
                turned[pair + 4] = second * math.cos(angle) + first * math.sin(angle)
            values = turned
        logits.append(sum(q * k for q, k in zip(query, values)) / 8**0.5)
    total = sum(math.exp(value) for value in logits)
    wanted = torch.tensor([math.exp(value) / total for value in logits[5:]])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_attention_of_blocks_with_two_attentions_is_unavailable():
    model = tiny_timm(block_fn=timm_vit.ParallelThingsBlock)
    with pytest.raises(NotImplementedError, match='must have one self-attention .* got 2 calls'):
        TimmEncoder(model).cls_attention(torch.zeros(1, 3, 32, 32))


def test_timm_without_patches_is_rejected():
    with pytest.raises(ValueError, match='not a ViT of blocks'):
        TimmEncoder(nn.Linear(2, 2))


def test_weights_hash_distinguishes_networks():
    torch.manual_seed(0)
    first, second = ViTEncoder(tiny_vit(out_type='raw')), ViTEncoder(tiny_vit(out_type='raw'))
    assert first.weights_hash() != second.weights_hash()
    second.module.load_state_dict(first.module.state_dict())
    assert first.weights_hash() == second.weights_hash()
