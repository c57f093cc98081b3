"""Color augmentation depends on the draws of a crop only and matches torchvision."""

from __future__ import annotations

import itertools

import pytest
import torch
from functorch.compile import make_boxed_func
from kornia.enhance import adjust_hue
from torch._dynamo.backends.common import aot_autograd
from torchvision.transforms import functional as TF

from cotap_mm.ops import COLOR_DRAWS, augment_color, color


def crops_of(count, size=9, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def draws_of(count, seed=1):
    return torch.rand(count, COLOR_DRAWS, generator=torch.Generator().manual_seed(seed))


def one_by_one(crop, draws):
    """Reference for one crop with torchvision and the settings of the method."""
    jitter, brightness, contrast, saturation, hue, *order, gray, blur, sigma = draws.tolist()
    steps = [
        lambda x: TF.adjust_brightness(x, 0.2 + 1.6 * brightness),
        lambda x: TF.adjust_contrast(x, 0.2 + 1.6 * contrast),
        lambda x: TF.adjust_saturation(x, 0.2 + 1.6 * saturation),
        lambda x: TF.adjust_hue(x, -0.2 + 0.4 * hue),
    ]
    if jitter < 0.8:
        for index in sorted(range(4), key=lambda i: order[i]):
            crop = steps[index](crop)
    if gray < 0.2:
        crop = TF.rgb_to_grayscale(crop, 3)
    if blur < 0.5:
        crop = TF.gaussian_blur(crop, [7, 7], [0.1 + 1.9 * sigma] * 2)
    return crop


def test_matches_torchvision_one_by_one():
    crops, draws = crops_of(60), draws_of(60)
    before = crops.clone()
    result = augment_color(crops, draws)
    assert torch.equal(crops, before)
    for i in range(60):
        assert torch.allclose(result[i], one_by_one(crops[i], draws[i]), atol=2e-3), i


def test_all_orders_are_reached_and_differ():
    draws = draws_of(1).repeat(24, 1)
    draws[:, 0], draws[:, 9], draws[:, 10] = 0, 1, 1
    for row, order in zip(draws, itertools.permutations(range(4))):
        row[5:9] = torch.tensor(order) / 4
    crops = crops_of(1).expand(24, -1, -1, -1)
    results = augment_color(crops, draws)
    for i in range(24):
        assert torch.allclose(results[i], one_by_one(crops[i], draws[i]), atol=2e-3)
    assert (torch.pdist(results.flatten(1)) > 1e-4).float().mean() > 0.5


def test_a_crop_does_not_depend_on_the_others():
    crops, draws = crops_of(16), draws_of(16)
    together = augment_color(crops, draws)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(augment_color(crops[order], draws[order]), together[order], atol=1e-6)
    for i in range(16):
        assert torch.allclose(
            augment_color(crops[i : i + 1], draws[i : i + 1])[0], together[i], atol=1e-6
        )
    assert not torch.allclose(augment_color(crops, draws.roll(1, 0)), together, atol=1e-2)


def test_zero_probabilities_change_nothing():
    crops = crops_of(4)
    same = augment_color(crops, draws_of(4), jitter_prob=0, gray_prob=0, blur_prob=0)
    assert torch.equal(same, crops)
    assert augment_color(crops[:0], draws_of(0)).shape == (0, 3, 9, 9)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_hues_are_those_of_kornia(dtype):
    colors = torch.tensor(list(itertools.product([0, 1, 77, 128, 254, 255], repeat=3)))
    pixels = (colors.to(dtype) / 255).T.reshape(1, 3, 12, 18).repeat(9, 1, 1, 1)
    radians = torch.linspace(-3.2, 3.2, 9, dtype=dtype)  # without and with a change
    shifted = color._shift_hue(
        pixels, radians, *(torch.tensor(each) for each in (color._RISING, color._FALLING))
    )
    assert torch.allclose(shifted, adjust_hue(pixels, radians), rtol=0, atol=1e-6)
    assert torch.allclose(shifted[4], pixels[4], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_compiled_colors_are_the_same(monkeypatch):
    """Up to rounding and without graph breaks; one graph each, and others for a single crop."""
    torch._dynamo.reset()
    graphs, fused = [], {}

    def keep(module, inputs):
        graphs.append(module)
        return make_boxed_func(module.forward)

    def compiled(function):
        if function not in fused:
            fused[function] = torch.compile(
                function, backend=aot_autograd(fw_compiler=keep), dynamic=True, fullgraph=True
            )
        return fused[function]

    operations = color._operations
    monkeypatch.setattr(color, 'compiled', compiled)
    numbers = []
    for seed, (count, size) in enumerate(((24, 12), (30, 9), (17, 12), (3, 9), (40, 16), (30, 12))):
        crops, draws = crops_of(count, size, seed), draws_of(count, seed)
        monkeypatch.setattr(color, '_operations', operations)
        wanted = augment_color(crops, draws)
        monkeypatch.setattr(color, '_operations', lambda _: operations(True))
        torch.testing.assert_close(augment_color(crops, draws), wanted, rtol=0, atol=1e-6)
        numbers.append(len(graphs))
    assert fused.keys() == {color._blended, color._shift_hue}
    assert numbers[0] == 2 and numbers[-1] <= 4


def test_bad_draws():
    with pytest.raises(ValueError, match=r'draws must have shape \(4, 12\), got \(3, 12\)'):
        augment_color(crops_of(4), draws_of(3))
