"""Toy scenes as image files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cotap_mm.datasets import ToyScenes, write_toy_scenes
from cotap_mm.evaluation import load_data


def test_files_have_the_pixels_and_classes_of_the_scenes(tmp_path):
    assert write_toy_scenes(tmp_path / 'toy', image_size=32, train=2, val=1) == tmp_path / 'toy'
    scenes = ToyScenes('train', 2, 32)
    for index in range(2):
        for kind, expected in (('images', scenes.read(index)), ('labels', scenes.label(index))):
            with Image.open(tmp_path / 'toy' / kind / 'train' / f'{index:06d}.png') as image:
                np.testing.assert_array_equal(np.asarray(image), expected)
    assert len(list((tmp_path / 'toy' / 'images' / 'val').iterdir())) == 1


def test_evaluation_reads_the_folder(tmp_path):
    data = load_data('folder', write_toy_scenes(tmp_path, 32, train=3, val=2), ToyScenes.CLASSES)
    assert (len(data.train), len(data.val)) == (3, 2)


def test_wrong_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match='give at least one split'):
        write_toy_scenes(tmp_path)
    with pytest.raises(ValueError, match="split must be one of .* got 'trane'"):
        write_toy_scenes(tmp_path, trane=2)
    assert not list(tmp_path.iterdir())
