"""cotap_mm.load: an encoder from a file, in a few lines."""
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import build_tiny

import cotap_mm
from cotap_mm.evaluation import normalize_images


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    algorithm = build_tiny()
    for network in (algorithm, algorithm.teacher):
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.2)
    config = "model = dict(type='CoTAP', backbone=dict(arch=dict(num_heads=2)))"
    torch.save(dict(state_dict=algorithm.state_dict(), meta=dict(cfg=config)),
               tmp_path / 'iter_1.pth')
    return tmp_path / 'iter_1.pth', algorithm.eval()


@pytest.mark.parametrize('branch', ['student', 'teacher'])
def test_features_are_those_of_pre_training(checkpoint, tmp_path, branch):
    path, algorithm = checkpoint
    pixels = np.random.RandomState(0).randint(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    encoder = cotap_mm.load(path, branch=branch)
    assert not encoder.report.missing and not encoder.network.training
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = algorithm.encode(normalize_images(batch), branch)
    for picture in (tmp_path / 'photo.png', str(tmp_path / 'photo.png'), Image.fromarray(pixels),
                    pixels, batch[0], batch, [pixels]):
        cls, patches = encoder.encode(picture)
        assert cls.shape == (1, 32) and patches.shape == (1, 32, 5, 7)
        torch.testing.assert_close(cls, wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(patches, wanted[1], rtol=1e-5, atol=1e-5)


def test_pictures_of_different_sizes(checkpoint):
    encoder = cotap_mm.load(checkpoint[0])
    pictures = [np.zeros((40, 40, 3), np.uint8), np.zeros((48, 40, 3), np.uint8)]
    with pytest.raises(ValueError, match=r'one size, got \[\(40, 40\), \(48, 40\)\]; pass size'):
        encoder.encode(pictures)
    assert encoder.encode(pictures, size=32).patches.shape == (2, 32, 4, 4)
    assert encoder.encode(pictures, size=(32, 64)).patches.shape == (2, 32, 4, 8)


@pytest.mark.parametrize('images, error, message', [
    ([], ValueError, 'at least one image'),
    (np.zeros((4, 4), np.uint8), ValueError, r'\(H, W, 3\), got \(4, 4\)'),
    (torch.zeros(4, 4), ValueError, r'\(B, 3, H, W\), got \(4, 4\)'),
    (torch.zeros(3, 8, 8), TypeError, 'must be uint8 pixels'),
    (3, TypeError, 'got int'),
])
def test_wrong_pictures(checkpoint, images, error, message):
    encoder = cotap_mm.load(checkpoint[0])
    with pytest.raises(error, match=message):
        encoder.encode(images)
    with pytest.raises(error, match=message):
        encoder.encode(images, size=16)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        cotap_mm.lode  # noqa: B018
