"""cotap_mm.load builds an encoder from a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import cotap_mm
from cotap_mm.evaluation import normalize_images
from tests.helpers.tiny import CONFIG, build_tiny


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    algorithm = build_tiny()
    for network in (algorithm, algorithm.teacher):
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.2)
    torch.save(
        dict(state_dict=algorithm.state_dict(), meta=dict(cfg=CONFIG)), tmp_path / 'iter_1.pth'
    )
    return tmp_path / 'iter_1.pth', algorithm.eval()


@pytest.mark.parametrize('network', ['student', 'teacher'])
def test_features_are_those_of_pre_training(checkpoint, tmp_path, network):
    path, algorithm = checkpoint
    pixels = np.random.RandomState(0).randint(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    encoder = cotap_mm.load(path, network=network)
    assert not encoder.report.missing and not encoder.network.training
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = algorithm.encode(normalize_images(batch), network)
    for picture in (
        tmp_path / 'photo.png',
        str(tmp_path / 'photo.png'),
        Image.fromarray(pixels),
        pixels,
        batch[0],
        batch,
        [pixels],
    ):
        cls, patches = encoder.encode(picture)
        assert cls.shape == (1, 32) and patches.shape == (1, 32, 5, 7)
        torch.testing.assert_close(cls, wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(patches, wanted[1], rtol=1e-5, atol=1e-5)


def test_images_of_different_sizes(checkpoint):
    encoder = cotap_mm.load(checkpoint[0])
    pictures = [np.zeros((40, 40, 3), np.uint8), np.zeros((48, 40, 3), np.uint8)]
    with pytest.raises(ValueError, match=r'one size, got \[\(40, 40\), \(48, 40\)\]; pass size'):
        encoder.encode(pictures)
    assert encoder.encode(pictures, size=32).patches.shape == (2, 32, 4, 4)
    assert encoder.encode(pictures, size=(32, 64)).patches.shape == (2, 32, 4, 8)


@pytest.mark.parametrize(
    'images, error, message',
    [
        ([], ValueError, 'at least one image'),
        (np.zeros((4, 4), np.uint8), ValueError, r'\(H, W, 3\), got \(4, 4\)'),
        (torch.zeros(4, 4), ValueError, r'\(B, 3, H, W\), got \(4, 4\)'),
        (torch.zeros(3, 8, 8), TypeError, 'must be uint8 pixels'),
        (3, TypeError, 'got int'),
    ],
)
def test_invalid_images(checkpoint, images, error, message):
    encoder = cotap_mm.load(checkpoint[0])
    with pytest.raises(error, match=message):
        encoder.encode(images)
    with pytest.raises(error, match=message):
        encoder.encode(images, size=16)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        cotap_mm.lode  # noqa: B018


def test_outputs_of_a_file(checkpoint):
    path, algorithm = checkpoint
    pixels = np.zeros((32, 32, 3), np.uint8)
    batch = normalize_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with torch.no_grad():
        wanted = algorithm.encode(batch, 'student', 'backbone')[1]
    plain = cotap_mm.load(path, output='backbone').encode(pixels).patches
    torch.testing.assert_close(plain, wanted, rtol=1e-5, atol=1e-5)
    assert cotap_mm.load(path, output='filter').encode(pixels).patches.shape[1] == 32
    with pytest.raises(ValueError, match='filter, backbone'):
        cotap_mm.load(path, output='neck')


def test_random_weights_of_the_same_architecture(checkpoint):
    torch.manual_seed(3)
    encoder = cotap_mm.load(f'random:{checkpoint[0]}')
    pretrained = cotap_mm.load(checkpoint[0])
    assert encoder.weights_hash() != pretrained.weights_hash()
    shapes = [
        {name: value.shape for name, value in each.network.state_dict().items()}
        for each in (encoder, pretrained)
    ]
    assert shapes[0] == shapes[1]
    assert encoder.report.missing and not encoder.report.loaded


def test_final_norm_of_plain_files():
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0
    ).eval()
    torch.nn.init.normal_(model.norm.weight, 1)
    encoder = cotap_mm.load(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.forward_features(images)
    torch.testing.assert_close(encoder(images).cls, tokens[:, 0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='no object-aware filter'):
        cotap_mm.load(model.state_dict(), output='filter')


def test_timm_by_name():
    encoder = cotap_mm.load('random:timm:test_vit.r160_in1k')
    assert encoder.encode(np.zeros((32, 48, 3), np.uint8)).patches.shape == (1, 64, 2, 3)
    with pytest.raises(ValueError, match="has no model 'vit_smal'; similar names: .*vit_"):
        cotap_mm.load('timm:vit_smal')
    with pytest.raises(ValueError, match='choose a ViT'):
        cotap_mm.load('random:timm:resnet18')
    with pytest.raises(ValueError, match='no object-aware filter'):
        cotap_mm.load('timm:test_vit', output='filter')
