"""Encoder.encode on lists, folders and batches; deep images share one range of values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cotap_mm.datasets import open_images, pack_images
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import open_pictures


class MeanColor(Encoder):
    """Mean color of each patch, in pixel values; records the sizes of its batches."""

    def __init__(self):
        super().__init__(nn.Linear(1, 1), 8)
        self.batches = []

    def _encode(self, images):
        self.batches.append(len(images))
        mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
        std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
        patches = nn.functional.avg_pool2d((images * std + mean) * 255, 8)
        return patches.mean(dim=(2, 3)), patches


@pytest.fixture
def encoder():
    return MeanColor()


@pytest.fixture
def folder(tmp_path):
    for index in range(5):
        pixels = np.full((16 + 8 * (index % 2), 24, 3), 40 * index, np.uint8)
        path = tmp_path / 'photos' / ('a' if index < 2 else 'b') / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / 'photos'


def colors(output):
    return output.cls[:, 0].round().int().tolist()


def test_a_folder_in_batches(encoder, folder, tmp_path, capsys):
    found = encoder.encode(folder, size=16, batch_size=2, progress=True)
    assert colors(found) == [0, 40, 80, 120, 160] and encoder.batches == [2, 2, 1]
    assert found.patches.shape == (5, 3, 2, 2)
    assert 'encoding: 5 of 5 (100%)' in capsys.readouterr().err
    pack_images(open_images(folder), tmp_path / 'packed.lmdb')
    for same in (str(folder), tmp_path / 'packed.lmdb', open_images(folder)):
        again = encoder.encode(same, size=16)
        assert torch.equal(again.cls, found.cls) and torch.equal(again.patches, found.patches)
    assert capsys.readouterr().err == ''
    with pytest.raises(ValueError, match=r'one size, got .*24.*; pass size.*\(a/1.png differs\)'):
        encoder.encode(folder)
    with pytest.raises(FileNotFoundError, match='contains no images'):
        (tmp_path / 'empty').mkdir()
        encoder.encode(tmp_path / 'empty')
    with pytest.raises(ValueError, match='batch_size must be positive, got 0'):
        encoder.encode(folder, size=16, batch_size=0)


def test_all_types_in_one_list(encoder, folder):
    array = np.full((8, 8, 3), 10, np.uint8)
    images = [folder / 'a/1.png', array, torch.from_numpy(array).permute(2, 0, 1) + 1]
    images += [Image.fromarray(array + 2), str(folder / 'b/4.png')]
    assert colors(encoder.encode(images, size=(16, 8))) == [40, 10, 11, 12, 160]
    assert colors(encoder.encode(tuple(images), size=8, batch_size=1)) == [40, 10, 11, 12, 160]
    batch = np.stack([array, array + 5])
    assert colors(encoder.encode(batch)) == [10, 15]
    assert colors(encoder.encode(torch.from_numpy(batch).permute(0, 3, 1, 2))) == [10, 15]


@pytest.fixture
def deep(tmp_path):
    """Two 16-bit images of which one is half as bright."""
    folder = tmp_path / 'deep'
    folder.mkdir()
    for name, top in (('dark', 2000), ('light', 4000)):
        ramp = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.uint16)
        Image.fromarray(ramp).save(folder / f'{name}.png')
    return folder


def test_deep_images_share_one_range(encoder, deep):
    paths = sorted(deep.iterdir())
    opened = [Image.open(path) for path in paths]
    for images in (deep, paths, opened, [paths[0], opened[1]]):
        dark, light = encoder.encode(images).cls[:, 0].tolist()
        assert light == pytest.approx(2 * dark, rel=0.02), images
    alone = encoder.encode(paths[0]).cls[0, 0].item()
    assert alone == pytest.approx(encoder.encode(paths).cls[1, 0].item(), rel=0.1)
    fixed = encoder.encode(paths, value_range=(0, 8000)).cls[:, 0].tolist()
    assert fixed == pytest.approx([1000 / 8000 * 255, 2000 / 8000 * 255], rel=0.02)
    with pytest.raises(ValueError, match='value_range must be'):
        encoder.encode(paths, value_range=(3, 1))


def test_images_are_read_when_they_are_needed(folder):
    pictures = open_pictures([*sorted(folder.rglob('*.png')), folder / 'nowhere.png'])
    assert len(pictures) == 6 and pictures.pixels(1).shape == (3, 24, 24)
