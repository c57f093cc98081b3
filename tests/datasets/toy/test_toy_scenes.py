"""ToyScenes is reproducible and labeled, and color does not reveal the class."""

from __future__ import annotations

import os

import numpy as np
import pytest

from cotap_mm.datasets.toy import scenes
from cotap_mm.datasets.toy.scenes import ToyScenes
from cotap_mm.registry import DATASETS

SMALL = dict(num_images=6, image_size=48)


def test_built_from_a_config_it_is_an_image_source():
    data = DATASETS.build(dict(type='ToyScenes', **SMALL))
    assert len(data) == 6
    assert data.read(2).shape == (48, 48, 3) and data.read(2).dtype == np.uint8
    assert data.label(2).shape == (48, 48) and data.label(2).dtype == np.uint8
    assert len({data.name(i) for i in range(6)}) == 6
    assert len(data.CLASSES) == len(data.PALETTE) == data.num_classes


def test_an_image_depends_only_on_its_own_arguments():
    np.random.seed(1)
    many = ToyScenes(**SMALL)
    np.random.seed(2)
    few = ToyScenes(num_images=2, image_size=48)
    assert np.array_equal(many.images[:2], few.images)
    assert np.array_equal(many.labels[:2], few.labels)


@pytest.mark.parametrize(
    'other',
    [
        dict(split='memory'),
        dict(split='val'),
        dict(split='test'),
        dict(seed=1),
        dict(scene='single'),
    ],
    ids=str,
)
def test_splits_seeds_and_scenes_share_no_image(other):
    first, second = ToyScenes(**SMALL), ToyScenes(**SMALL, **other)
    assert not set(map(bytes, first.images)) & set(map(bytes, second.images))
    assert first.name(0) != second.name(0)


def test_an_image_is_drawn_once_in_a_process(monkeypatch):
    drawn = []

    def draw_scene(rng, size, single, draw=scenes.draw_scene):
        drawn.append(size)
        return draw(rng, size, single)

    monkeypatch.setattr(scenes, '_drawn', {})
    monkeypatch.setattr(scenes, 'draw_scene', draw_scene)
    first = ToyScenes(**SMALL)
    assert len(drawn) == 6
    again, fewer, more = (ToyScenes(num_images=n, image_size=48) for n in (6, 3, 8))
    assert len(drawn) == 8  # two more
    for each in (again, fewer, more):
        count = min(6, len(each))
        assert np.array_equal(each.images[:count], first.images[:count])
        assert np.array_equal(each.labels[:count], first.labels[:count])
    with pytest.raises(ValueError, match='read-only'):
        first.images[0] = 0
    for seed in range(1, 9):  # the first stream is dropped
        ToyScenes(num_images=1, image_size=32, seed=seed)
    assert len(scenes._drawn) == 8
    ToyScenes(**SMALL)
    assert len(drawn) == 8 + 8 + 6


def test_read_returns_a_copy():
    data = ToyScenes(**SMALL)
    data.read(0)[:] = 0
    data.label(0)[:] = 200
    assert data.read(0).any() and data.label(0).max() < data.num_classes


def test_every_class_occurs_and_no_other_label():
    labels = ToyScenes(num_images=80, image_size=48).labels
    assert set(np.unique(labels)) == set(range(ToyScenes.num_classes))


def test_a_single_object_covers_the_center():
    labels = ToyScenes(num_images=30, image_size=48, scene='single').labels
    kinds = [set(np.unique(label)) for label in labels]
    assert all(len(kind) == 2 for kind in kinds)
    share = (labels >= 3).mean(axis=(1, 2))
    assert share.min() > 0.05 and share.max() < 0.7


def test_labels_lie_on_the_objects():
    # Pixels change more across the edge of a mask than elsewhere.
    data = ToyScenes(num_images=40)
    change = np.abs(np.diff(data.images.astype(float), axis=2)).mean(axis=3)
    edge = np.diff(data.labels.astype(int), axis=2) != 0
    assert change[edge].mean() > 1.3 * change[~edge].mean()


def test_hue_does_not_reveal_the_class():
    # Class means of channel differences are close compared with their standard deviation.
    # Brightness reveals a little, since textures differ in their fraction of dark pixels.
    data = ToyScenes(num_images=120, image_size=48)
    colors = {kind: [] for kind in range(data.num_classes)}
    for image, label in zip(data.images.astype(float), data.labels):
        for kind in np.unique(label):
            red, green, blue = image[label == kind].mean(axis=0)
            colors[kind].append((red - green, green - blue))
    means = np.array([np.mean(colors[kind], axis=0) for kind in colors])
    spread = np.mean([np.std(colors[kind], axis=0) for kind in colors])
    assert means.std(axis=0).max() < 0.5 * spread


def test_cache_gives_the_same_images(tmp_path):
    fresh = ToyScenes(**SMALL, cache_dir=str(tmp_path / 'new'))
    files = os.listdir(tmp_path / 'new')
    stored = ToyScenes(**SMALL, cache_dir=str(tmp_path / 'new'))
    assert len(files) == 1 and files == os.listdir(tmp_path / 'new')
    assert np.array_equal(fresh.images, stored.images)
    assert np.array_equal(fresh.labels, stored.labels)


def test_a_broken_cache_is_drawn_again(tmp_path):
    fresh = ToyScenes(**SMALL, cache_dir=str(tmp_path))
    path = tmp_path / os.listdir(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match='draws the images again'):
        again = ToyScenes(**SMALL, cache_dir=str(tmp_path))
    assert np.array_equal(fresh.images, again.images)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(split='trian'), "split must be one of .*memory.* got 'trian'"),
        (dict(scene='double'), 'scene must be one of'),
        (dict(num_images=0), 'num_images must be an integer >= 1, got 0'),
        (dict(image_size=8), 'image_size must be an integer >= 32'),
        (dict(seed=-1), 'seed must be an integer in'),
    ],
    ids=str,
)
def test_errors_list_the_valid_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        ToyScenes(**{**SMALL, **wrong})
