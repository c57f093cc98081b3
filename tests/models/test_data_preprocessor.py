"""Views of real crops: boxes show the same pixels, color factors are those of torchvision.

Shapes, order and single operations are tested in
``tests/datasets/test_student_and_teacher_views.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from cotap_mm.datasets import MultiCrop
from cotap_mm.models import CoTAPDataPreprocessor
from cotap_mm.models.modules import CropBatch
from cotap_mm.ops import COLOR_DRAWS, augment_color

NO_COLOR = dict(
    brightness=0, contrast=0, saturation=0, hue=0, jitter_prob=1.0, gray_prob=0, blur_prob=0
)


def pixels_of(model, views):
    return views * model.std + model.mean


def ramp(height, width):
    """Image whose red value is the column and green value the row."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    return image


def collated(images, seed=0, **options):
    """Batch as of NeighborPairs; ``images`` is a list of pairs."""
    rng, crop = np.random.default_rng(seed), MultiCrop(**options)
    samples = []
    for pair in images:
        parts = [torch.stack(part) for part in zip(*(crop(image, rng) for image in pair))]
        samples.append(dict(patch=dict(zip(('global_crops', 'local_crops', 'boxes'), parts))))
    return default_collate(samples)


def read_at(crop, box, grid=5):
    """Colors of a crop (3, s, s) at a grid of points inside a box in crop pixels."""
    side = crop.shape[-1]
    steps = torch.linspace(0.3, 0.7, grid)  # resampling reflects at the edges of a crop
    x, y = (box[i] + steps * (box[i + 2] - box[i]) for i in (0, 1))
    y, x = torch.meshgrid(y, x, indexing='ij')
    points = torch.stack([x, y], dim=-1)[None] / side * 2 - 1  # pixel i covers [i, i + 1]
    return F.grid_sample(crop[None], points, align_corners=False)[0, :2]


@pytest.mark.parametrize('seed', range(3))
def test_common_boxes_show_the_same_place(seed):
    batch = collated(
        [(ramp(200, 250), ramp(250, 180)), (ramp(256, 256), ramp(120, 250))],
        seed,
        global_size=112,
        local_size=48,
    )
    model = CoTAPDataPreprocessor(color=None)
    views = model(batch, training=True)['inputs']['patch']
    boxes = batch['patch']['boxes'].transpose(0, 1).flatten(0, 1)
    for i in range(4):
        crops = [
            *pixels_of(model, views['student_global'][i]),
            *pixels_of(model, views['student_local'][i]),
        ]
        for g in range(2):
            for v, crop in enumerate(crops):
                in_g = read_at(crops[g], views['common_global'][i, g, v])
                in_v = read_at(crop, views['common_other'][i, v, g])
                assert (in_g - in_v).abs().max() < 1.5
                # And it is the region of the source image that the boxes of the crops give.
                low = torch.maximum(boxes[i, g, :2], boxes[i, v, :2])
                high = torch.minimum(boxes[i, g, 2:], boxes[i, v, 2:])
                center = (low + high) / 2 - 0.5  # the center of pixel i is i + 0.5
                assert (in_v[:, 2, 2] - center).abs().max() < 1


def test_positives_follow_the_images():
    flat = [
        [np.full((20, 20, 3), value, dtype=np.uint8) for value in pair]
        for pair in ((10, 20), (30, 40), (50, 60))
    ]
    model = CoTAPDataPreprocessor(color=None)
    views = model(collated(flat, global_size=16, local_size=8))['inputs']['patch']
    for key in ('student_global', 'student_local', 'teacher_global'):
        assert pixels_of(model, views[key])[:, 0, 0, 0, 0].round().tolist() == [
            10,
            30,
            50,
            20,
            40,
            60,
        ]


def test_brightness_multiplies_by_0_2_to_1_8():
    """Not an added constant; kornia has both."""
    torch.manual_seed(0)
    image = np.full((20, 20, 3), 40, dtype=np.uint8)
    image[..., 1] = 100
    batch = collated([(image, image)] * 40, global_size=8, local_size=8)
    model = CoTAPDataPreprocessor(color={**NO_COLOR, 'brightness': 0.8})
    views = model(batch, training=True)['inputs']['patch']
    pixels = pixels_of(model, views['student_global'])[:, :, :2, 0, 0].flatten(0, 1)
    factors = pixels / torch.tensor([40.0, 100.0])
    assert torch.allclose(factors[:, 0], factors[:, 1], atol=1e-3)
    assert 0.199 < factors.min() < 0.3 and 1.7 < factors.max() < 1.801
    assert len(factors[:, 0].unique()) > 150  # a factor for each of 160 crops


@pytest.mark.parametrize('option, hue', [('default', 0.2), (dict(hue=0.1), 0.1)])
def test_settings_of_the_method(option, hue):
    assert CoTAPDataPreprocessor(color=option).color == dict(
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=hue,
        jitter_prob=0.8,
        gray_prob=0.2,
        blur_prob=0.5,
        blur_sigma=(0.1, 2.0),
    )


def test_color_is_determined_by_the_draws_in_the_batch():
    batch = collated([(ramp(40, 50), ramp(50, 40))] * 3, global_size=16, local_size=8)
    draws = torch.rand(3, 2, 6, COLOR_DRAWS, generator=torch.Generator().manual_seed(0))
    model = CoTAPDataPreprocessor()
    plain = model(batch)['inputs']['patch']
    batch['patch']['color_draws'] = draws
    views = model(batch, training=True)['inputs']['patch']
    again = model(batch, training=True)['inputs']['patch']
    for key, first, count in (('student_global', 0, 2), ('student_local', 2, 4)):
        assert torch.equal(views[key], again[key])
        for row, (image, which) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]):
            own = augment_color(
                pixels_of(model, plain[key][row]) / 255, draws[image, which, first : first + count]
            )
            assert torch.allclose(pixels_of(model, views[key][row]) / 255, own, atol=1e-4)


@pytest.mark.parametrize('sizes', [(16, 8), (28, 28), (14, 7)])
def test_branches_are_computed_together_to_the_bits_of_each(sizes):
    options = dict(global_size=sizes[0], local_size=sizes[1])
    batch = {
        name: collated([(ramp(40, 50), ramp(50, 40))] * 3, seed, **options)['patch']
        for seed, name in enumerate(('patch', 'cls'))
    }
    for seed, branch in enumerate(batch.values()):
        generator = torch.Generator().manual_seed(seed)
        branch['color_draws'] = torch.rand(3, 2, 6, COLOR_DRAWS, generator=generator)
    model = CoTAPDataPreprocessor()
    for training in (True, False):
        together = model(batch, training)['inputs']
        for name, branch in batch.items():
            (alone,) = model({name: branch}, training)['inputs'].values()
            assert alone.keys() == together[name].keys()
            assert all(torch.equal(alone[key], together[name][key]) for key in alone)


def test_color_draws_of_another_shape():
    batch = collated([(ramp(40, 50), ramp(50, 40))] * 3, global_size=16, local_size=8)
    batch['patch']['color_draws'] = torch.rand(3, 2, 5, COLOR_DRAWS)
    message = r'color_draws of branch patch must have shape \(3, 2, 6, 12\), got \(3, 2, 5, 12\)'
    with pytest.raises(ValueError, match=message):
        CoTAPDataPreprocessor()(batch, training=True)


@pytest.mark.parametrize('color', ['default', None])
def test_crops_of_both_branches_are_not_copied_into_one_tensor(color):
    pairs = [(ramp(60, 70), ramp(50, 60))] * 2
    sizes = dict(global_size=32, local_size=16, num_local=3)
    first, second = (collated(pairs, seed, **sizes)['patch'] for seed in (0, 1))
    views = CoTAPDataPreprocessor(color=color)(dict(patch=first, cls=second), True)['inputs']
    for key in ('student_global', 'student_local', 'teacher_global'):
        own = [views[branch][key].flatten(0, 1) for branch in ('patch', 'cls')]
        whole = CropBatch(views, key).concatenated()
        assert whole.data_ptr() == own[0].data_ptr()
        assert torch.equal(whole, torch.cat(own))
        swapped = CropBatch(dict(patch=views['cls'], cls=views['patch']), key).concatenated()
        assert torch.equal(swapped, torch.cat(own[::-1]))
