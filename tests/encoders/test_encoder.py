from __future__ import annotations

import pytest
import torch
from mmpretrain.models import VisionTransformer
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
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    torch.manual_seed(0)
    return TimmViT(
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
    attention = model.blocks[-1].attn
    attention.fused_attn = False
    kept = []
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: kept.append(output))
    found = encoder.cls_attention(normalize_images(pixels))
    torch.testing.assert_close(found.flatten(2), kept[0][:, :, 0, prefix:], rtol=1e-4, atol=1e-5)


def test_timm_without_patches_is_rejected():
    with pytest.raises(ValueError, match='not a ViT of blocks'):
        TimmEncoder(nn.Linear(2, 2))


def test_weights_hash_distinguishes_networks():
    torch.manual_seed(0)
    first, second = ViTEncoder(tiny_vit(out_type='raw')), ViTEncoder(tiny_vit(out_type='raw'))
    assert first.weights_hash() != second.weights_hash()
    second.module.load_state_dict(first.module.state_dict())
    assert first.weights_hash() == second.weights_hash()
