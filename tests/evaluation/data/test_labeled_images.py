from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.evaluation import ImageMaskFolder, LabeledScenes, build_labeled


class FakeScenes:
    def __len__(self):
        return 2

    def read(self, index, enough=None):
        return np.full((4, 6, 3), index, dtype=np.uint8)

    def label(self, index):
        return np.full((4, 6), index + 1, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ('b/2', 'a/1', 'c/3'):
        for kind, suffix, value in (('images', '.jpg', (200, 10, 10)), ('labels', '.png', 3)):
            path = tmp_path / kind / (name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('L' if kind == 'labels' else 'RGB', (8, 6), value).save(path)
    return tmp_path


def test_images_and_masks_are_paired_by_relative_name(folder):
    data = ImageMaskFolder(folder / 'images', folder / 'labels')
    assert [path.stem for path in data.masks] == ['1', '2', '3']
    sample = data[0]
    assert sample['image'].shape == (3, 6, 8) and sample['image'].dtype == torch.uint8
    assert sample['image'][0].float().mean() == pytest.approx(200, abs=3)
    assert sample['label'].shape == (6, 8) and sample['label'].unique().tolist() == [3]


def test_only_images_are_resized(folder):
    sample = ImageMaskFolder(folder / 'images', folder / 'labels', image_size=(4, 10))[0]
    assert sample['image'].shape == (3, 4, 10) and sample['label'].shape == (6, 8)


def test_limit_is_evenly_spaced(folder):
    data = ImageMaskFolder(folder / 'images', folder / 'labels', limit=2)
    assert [path.stem for path in data.masks] == ['1', '2'] and len(data) == 2
    assert len(ImageMaskFolder(folder / 'images', folder / 'labels', limit=9)) == 3
    with pytest.raises(ValueError, match='limit'):
        ImageMaskFolder(folder / 'images', folder / 'labels', limit=0)


def test_missing_files_are_reported(folder, tmp_path):
    (folder / 'labels/b/2.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 3 images have no mask.*2\.png'):
        ImageMaskFolder(folder / 'images', folder / 'labels')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        ImageMaskFolder(tmp_path / 'elsewhere', folder / 'labels')


def test_color_masks_are_rejected(folder):
    Image.new('RGB', (8, 6)).save(folder / 'labels/a/1.png')
    with pytest.raises(ValueError, match='one channel'):
        ImageMaskFolder(folder / 'images', folder / 'labels')[0]


def test_scenes_become_tensors():
    data = LabeledScenes(FakeScenes())
    assert len(data) == 2
    assert data[1]['image'].shape == (3, 4, 6) and data[1]['image'].unique().tolist() == [1]
    assert data[1]['label'].unique().tolist() == [2]
    assert len(list(data)) == 2  # iteration stops


def test_build_labeled_takes_config_scenes_or_data_set(folder):
    config = dict(
        type='ImageMaskFolder', images=str(folder / 'images'), labels=str(folder / 'labels')
    )
    assert isinstance(build_labeled(config), ImageMaskFolder)
    assert isinstance(build_labeled(FakeScenes()), LabeledScenes)
    data = [dict(image=torch.zeros(3, 2, 2), label=torch.zeros(2, 2))]
    assert build_labeled(data) is data
