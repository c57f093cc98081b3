"""Copies are found whatever their size and quality; other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cotap_mm.planning.near_duplicates import is_blank, similar_pairs, thumbnail_of


def scene(seed):
    """Smooth random image, as photographs are, of 96 x 128 px."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((128, 96), Image.BICUBIC)


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=quality)
    return Image.open(file).convert('RGB')


CHANGES = {
    'same': lambda image: image,
    'quality': lambda image: jpeg(image, 20),
    'size': lambda image: image.resize((64, 48)),
    'aspect': lambda image: image.resize((96, 96)),
    'contrast': lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    'gray': lambda image: image.convert('L').convert('RGB'),
    'shift': lambda image: image.crop((1, 0, 128, 96)),
}


def thumbnails(images):
    return np.stack([thumbnail_of(np.asarray(image)) for image in images])


@pytest.mark.parametrize('change', CHANGES)
def test_copies_are_found(change):
    images = [scene(seed) for seed in range(8)]
    pairs = similar_pairs(thumbnails([*images, CHANGES[change](images[5])]))
    assert pairs == [(5, 8)]


def test_other_images_are_not_alike():
    assert similar_pairs(thumbnails([scene(seed) for seed in range(50)])) == []
    flipped = scene(0).transpose(Image.FLIP_LEFT_RIGHT)
    assert similar_pairs(thumbnails([scene(0), flipped])) == []


def test_images_of_one_kind_are_not_alike():
    """Bright sky above and dark ground below give similar thumbnails."""
    ramp = np.linspace(230, 30, 96)[:, None, None]
    images = [
        np.clip(ramp + 0.15 * (np.asarray(scene(seed), np.float32) - 128), 0, 255).astype(np.uint8)
        for seed in range(20)
    ]
    assert similar_pairs(thumbnails(images)) == []


def test_blank_images():
    assert is_blank(thumbnail_of(np.full((40, 40, 3), 200, np.uint8)))
    assert not is_blank(thumbnail_of(np.asarray(scene(0))))


def test_photographs(shared_data):
    paths = sorted((shared_data / 'data/raccoon/images').glob('*.jpg'))[:40]
    images = [Image.open(path).convert('RGB') for path in paths]
    found = similar_pairs(thumbnails([*images, jpeg(images[7].resize((300, 200)), 40)]))
    assert (7, 40) in found and len(found) <= 3
