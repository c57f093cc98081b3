"""Student and teacher views share the geometry; colors change per crop, for the student only."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import functional as TF

from cotap_mm.models import CoTAPDataPreprocessor
from cotap_mm.ops import common_boxes
from cotap_mm.registry import MODELS

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def make_batch(batch=2, num_local=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def pixels(*shape):
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def branch():
        low = torch.rand(batch, 2, 2 + num_local, 2, generator=generator) * 10
        return dict(
            global_crops=pixels(batch, 2, 2, 16, 16, 3),
            local_crops=pixels(batch, 2, num_local, 8, 8, 3),
            boxes=torch.cat([low, low + 20], dim=-1),
            path=[['a', 'b'], ['c', 'd']],
        )

    return dict(patch=branch(), cls=branch())


def planes(pixels):
    """Convert pixels (..., h, w, 3) to floats (..., 3, h, w)."""
    return pixels.movedim(-1, -3).float()


def pixels_of(normalized):
    return normalized * STD + MEAN


def test_views_images_first_then_positives():
    batch = make_batch()
    out = MODELS.build(dict(type='CoTAPDataPreprocessor', color=None))(batch, True)
    assert set(out) == {'inputs', 'data_samples'} and out['data_samples'] is None
    for name in ('patch', 'cls'):
        views, crops = out['inputs'][name], batch[name]
        assert views['student_global'].shape == (4, 2, 3, 16, 16)
        assert views['student_local'].shape == (4, 4, 3, 8, 8)
        for row, (image, which) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            for key in ('student_global', 'teacher_global'):
                expected = (planes(crops['global_crops'][image, which]) - MEAN) / STD
                assert torch.allclose(views[key][row], expected, atol=1e-5)
            expected = (planes(crops['local_crops'][image, which]) - MEAN) / STD
            assert torch.allclose(views['student_local'][row], expected, atol=1e-5)
            in_global, in_other = common_boxes(
                crops['boxes'][image, which][None], [16, 16, 8, 8, 8, 8], 2
            )
            assert torch.equal(views['common_global'][row], in_global[0])
            assert torch.equal(views['common_other'][row], in_other[0])


def test_the_teacher_sees_no_color_augmentation():
    batch = make_batch()
    plain = CoTAPDataPreprocessor(color=None)(batch, True)['inputs']['patch']
    colored = CoTAPDataPreprocessor()(batch, True)['inputs']['patch']
    assert torch.equal(colored['teacher_global'], plain['teacher_global'])
    for key in ('student_global', 'student_local'):
        assert not torch.equal(colored[key], plain[key])
    outside_training = CoTAPDataPreprocessor()(batch, False)['inputs']['patch']
    assert torch.equal(outside_training['student_global'], plain['student_global'])


def test_each_crop_has_its_own_draws():
    batch = make_batch(8)
    for key in ('global_crops', 'local_crops'):
        crops = batch['patch'][key]
        batch['patch'][key] = crops[:1, :1, :1].expand_as(crops).contiguous()  # identical crops
    torch.manual_seed(0)
    views = CoTAPDataPreprocessor()(batch, True)['inputs']['patch']
    for key in ('student_global', 'student_local'):
        flat = views[key].flatten(0, 1).flatten(1)
        distances = torch.cdist(flat, flat).fill_diagonal_(1)
        # Two crops that are both unchanged (p = 0.08 each) or both gray are rare.
        assert (distances > 1e-3).float().mean() > 0.9


def test_augmentation_probabilities():
    batch = make_batch(100, num_local=0)
    torch.manual_seed(0)
    only = dict(
        brightness=0, contrast=0, saturation=0, hue=0, jitter_prob=0, gray_prob=0, blur_prob=0
    )
    for name, prob in (('gray_prob', 0.2), ('blur_prob', 0.5), ('jitter_prob', 0.8)):
        options = {**only, name: prob, **(dict(brightness=0.8) if 'jitter' in name else {})}
        views = CoTAPDataPreprocessor(color=options)(batch, True)['inputs']['patch']
        difference = (views['student_global'] - views['teacher_global']).abs().amax(dim=(2, 3, 4))
        assert (difference > 1e-3).float().mean().item() == pytest.approx(prob, abs=0.07)


@pytest.mark.parametrize(
    'name, limits, reference',
    [
        ('brightness', (1.5, 1.5), lambda x: TF.adjust_brightness(x, 1.5)),
        ('contrast', (0.4, 0.4), lambda x: TF.adjust_contrast(x, 0.4)),
        ('saturation', (1.7, 1.7), lambda x: TF.adjust_saturation(x, 1.7)),
        ('hue', (0.15, 0.15), lambda x: TF.adjust_hue(x, 0.15)),
        ('gray_prob', 1.0, lambda x: TF.rgb_to_grayscale(x, 3)),
        ('blur_sigma', (1.3, 1.3), lambda x: TF.gaussian_blur(x, [7, 7], [1.3, 1.3])),
    ],
)
def test_operations_equal_torchvision(name, limits, reference):
    nothing = dict(
        brightness=0,
        contrast=0,
        saturation=0,
        hue=0,
        jitter_prob=1.0,
        gray_prob=0,
        blur_prob=float(name == 'blur_sigma'),
    )
    batch = make_batch()
    views = CoTAPDataPreprocessor(color={**nothing, name: limits})(batch, True)['inputs']['patch']
    crops = planes(batch['patch']['global_crops'].transpose(0, 1).flatten(0, 2)) / 255
    result = pixels_of(views['student_global'].flatten(0, 1)) / 255
    assert torch.allclose(result, reference(crops), atol=2e-3)


def test_values_stay_in_range_and_precision_is_full_under_autocast():
    batch = make_batch()
    outputs = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            outputs.append(CoTAPDataPreprocessor()(batch, True)['inputs']['cls'])
    for key in ('student_global', 'student_local', 'teacher_global'):
        assert outputs[1][key].dtype == torch.float32
        assert torch.equal(outputs[0][key], outputs[1][key])
        pixels = pixels_of(outputs[0][key])
        assert pixels.min() > -0.01 and pixels.max() < 255.01


def test_no_local_crops():
    views = CoTAPDataPreprocessor()(make_batch(num_local=0), True)['inputs']['patch']
    assert views['student_local'].shape == (4, 0, 3, 8, 8)
    assert views['common_global'].shape == (4, 2, 2, 4)


def test_it_has_no_state():
    module = CoTAPDataPreprocessor()
    assert not module.state_dict() and not list(module.parameters())


@pytest.mark.parametrize('color', [dict(sharpness=1), 'strong', 3])
def test_bad_color(color):
    with pytest.raises(ValueError, match=r"color must be 'default', None, or a dict of \["):
        CoTAPDataPreprocessor(color=color)
