"""Crops overlap, lie in the image, and match their boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as TF

from cotap_mm.datasets import MultiCrop
from cotap_mm.registry import TRANSFORMS

SMALL = dict(global_size=16, local_size=8)
SIDES = st.one_of(st.integers(1, 12), st.integers(13, 700))


def _common_area(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def image_of(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 50]))
def test_crops_lie_inside_and_overlap(height, width, seed, max_draws):
    crop = MultiCrop(**SMALL, max_draws=max_draws)
    boxes = crop.draw_boxes(height, width, np.random.default_rng(seed))
    assert len(boxes) == 6
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    area = height * width
    assert _common_area(boxes[0], boxes[1]) > 0.02 * area
    for local in boxes[2:]:
        assert all(_common_area(local, box) > 0.01 * area for box in boxes[:2])


@settings(max_examples=50, deadline=None)
@given(st.integers(100, 400), st.floats(0.75, 1.33), st.integers(0, 2**32 - 1))
def test_scale_and_aspect(height, aspect, seed):
    width = round(height * aspect)
    boxes = MultiCrop().draw_boxes(height, width, np.random.default_rng(seed))
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        share = (x2 - x1) * (y2 - y1) / (height * width)
        low, high = (0.25, 1) if i < 2 else (0.05, 0.1)
        assert 0.9 * low < share < 1.1 * high
        assert 0.7 < (x2 - x1) / (y2 - y1) < 1.45


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_pixels_are_those_of_the_box(height, width, seed):
    image = image_of(height, width, seed % 1000)
    crop = MultiCrop(**SMALL)
    global_crops, local_crops, boxes = crop(image, np.random.default_rng(seed))
    assert global_crops.shape == (2, 16, 16, 3) and global_crops.dtype == torch.uint8
    assert local_crops.shape == (4, 8, 8, 3) and local_crops.dtype == torch.uint8
    assert boxes.shape == (6, 4) and boxes.dtype == torch.float32
    pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    for cut, box in zip([*global_crops, *local_crops], boxes.int().tolist()):
        x1, y1, x2, y2 = box
        expected = TF.resized_crop(
            pixels, y1, x1, y2 - y1, x2 - x1, list(cut.shape[:2]), antialias=True
        )
        # Resampled as integers instead of floats: differs by rounding.
        assert (cut.permute(2, 0, 1).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize('shape', [(1, 1), (1, 500), (500, 1), (2, 1000), (3000, 20)])
def test_thin_images(shape):
    for seed in range(5):
        crops = MultiCrop(**SMALL)(image_of(*shape), np.random.default_rng(seed))
        assert crops[0].shape == (2, 16, 16, 3) and crops[1].shape == (4, 8, 8, 3)


def test_an_elongated_image_is_not_squeezed():
    """No global crop covers a quarter of it; the fallback has an allowed aspect ratio."""
    x1, y1, x2, y2 = MultiCrop().draw_boxes(60, 600, np.random.default_rng(0))[0]
    assert (y1, y2, x2 - x1) == (0, 60, 80) and x1 + x2 == 600


def test_the_same_draws_give_the_same_crops():
    first, second, other = (
        MultiCrop(**SMALL)(image_of(40, 50), np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first[2], other[2])


def test_other_numbers_of_crops():
    crop = TRANSFORMS.build(dict(type='MultiCrop', **SMALL, num_global=1, num_local=0))
    global_crops, local_crops, boxes = crop(image_of(20, 20), np.random.default_rng(0))
    assert (len(global_crops), len(boxes)) == (1, 1) and local_crops.shape == (0, 8, 8, 3)
    crop = MultiCrop(**SMALL, num_global=3, num_local=2)
    assert [len(part) for part in crop(image_of(20, 20), np.random.default_rng(0))] == [3, 2, 5]


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(global_size=0), 'global_size must be an integer >= 1, got 0'),
        (dict(num_local=-1), 'num_local must be an integer >= 0, got -1'),
        (dict(max_draws=0), 'max_draws must be an integer >= 1'),
        (dict(global_scale=(0.5, 0.2)), 'global_scale must be 0 < low <= high <= 1'),
        (dict(local_scale=(0, 0.2)), 'local_scale must be'),
        (dict(global_scale=(0.1, 0.5, 0.7)), r'global_scale must be two numbers, got \(0.1, 0.5'),
        (dict(min_overlap=(0.02,)), r'min_overlap must be two numbers, got \(0.02,\)'),
        (
            dict(local_scale=(0.005, 0.01)),
            r'min_overlap must be in \[0, 0.01\), the largest local_s',
        ),
    ],
)
def test_bad_options(wrong, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**wrong)


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_the_fallback_lies_in_the_common_area(height, width, seed):
    crop, rng = MultiCrop(**SMALL), np.random.default_rng(seed)
    earlier = crop.draw_boxes(height, width, rng)[:2]
    crop._random_box = lambda *args: None  # no draw succeeds
    boxes = crop.draw_boxes(height, width, rng)
    x1, y1, x2, y2 = crop._centered(height, width, 0.1, 0.01, earlier)
    for box in earlier:
        assert box[0] <= x1 < x2 <= box[2] and box[1] <= y1 < y2 <= box[3]
    for box in boxes[2:]:
        assert _common_area(box, boxes[0]) == _common_area(box, boxes[1]) == _common_area(box, box)


@settings(max_examples=50, deadline=None)
@given(st.integers(30, 300), st.integers(30, 300), st.integers(0, 2**32 - 1))
def test_other_overlaps(height, width, seed):
    crop = MultiCrop(**SMALL, min_overlap=(0.2, 0.04))
    boxes = crop.draw_boxes(height, width, np.random.default_rng(seed))
    assert _common_area(boxes[0], boxes[1]) > 0.2 * height * width
    for local in boxes[2:]:
        assert all(_common_area(local, box) > 0.04 * height * width for box in boxes[:2])


@given(height=st.integers(30, 200), width=st.integers(30, 200), seed=st.integers(0, 99))
def test_no_crop_of_an_image_that_is_large_enough_is_enlarged(height, width, seed):
    crop = MultiCrop(global_size=24, local_size=10)
    assume(crop.is_large_enough(height, width) and 2 / 3 < height / width < 3 / 2)
    boxes = np.array(crop.draw_boxes(height, width, np.random.default_rng(seed)))
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    assert (sides[:2] >= 24).all() and (sides[2:] >= 10).all()
