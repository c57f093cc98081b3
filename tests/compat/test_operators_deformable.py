"""Deformable layers: as the compiled operators, or as slow references."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from tests.compat.operator_helpers import (
    CONVOLUTIONS,
    SHAPES,
    assert_same_as_compiled,
    attend,
    attention_inputs,
    convolution_inputs,
    modulated,
    plain,
    value_at,
)


@pytest.mark.parametrize('settings', CONVOLUTIONS)
def test_deform_conv(compiled, stand_in, settings):
    x, offset, _, weight = convolution_inputs(settings)
    assert_same_as_compiled(compiled, stand_in, 'deform_conv', plain(settings), [x, offset, weight])


@pytest.mark.parametrize('settings', CONVOLUTIONS)
@pytest.mark.parametrize('bias', [True, False])
def test_modulated_deform_conv(compiled, stand_in, settings, bias):
    tensors = [*convolution_inputs(settings), *([torch.randn(6)] if bias else [])]
    assert_same_as_compiled(
        compiled, stand_in, 'modulated_deform_conv', modulated(settings), tensors
    )


@pytest.mark.parametrize('settings', CONVOLUTIONS)
def test_gradients_at_whole_pixels(compiled, stand_in, settings):
    """Offsets are 0 at first, so that samples are on pixels, and derivatives one-sided."""
    x, offset, mask, weight = convolution_inputs(settings)
    for whole in (torch.zeros_like(offset), offset.round()):
        inputs = [x, whole, weight]
        assert_same_as_compiled(compiled, stand_in, 'deform_conv', plain(settings), inputs)
        inputs = [x, whole, mask, weight]
        assert_same_as_compiled(
            compiled, stand_in, 'modulated_deform_conv', modulated(settings), inputs
        )


@pytest.mark.parametrize('settings', CONVOLUTIONS)
def test_deformable_convolutions_with_constant_offsets(stand_in, settings):
    """They are convolutions of a shifted image; a mask of 0.5 halves them."""
    stand_in('deform_conv', 'modulated_deform_conv')
    x, offset, mask, weight = convolution_inputs(settings, size=(17, 20))
    offset[:, 0::2], offset[:, 1::2] = 1, -2  # down and left
    shifted = functional.pad(x, (2, -2, -1, 1))
    names = ('stride', 'padding', 'dilation', 'groups')
    expected = functional.conv2d(shifted, weight, None, *(settings[name] for name in names))
    inside = (..., slice(3, -3), slice(3, -3))  # the padding is not shifted
    bias = torch.randn(6)
    result = plain(settings)(x, offset, weight)
    assert result[inside].numel()
    torch.testing.assert_close(result[inside], expected[inside], rtol=1e-4, atol=1e-4)
    result = modulated(settings)(x, offset, torch.full_like(mask, 0.5), weight, bias)
    torch.testing.assert_close(
        result[inside], (expected / 2 + bias[:, None, None])[inside], rtol=1e-4, atol=1e-4
    )


def test_wrong_shapes_of_convolutions_are_reported(stand_in):
    stand_in('deform_conv')
    settings = CONVOLUTIONS[0]
    x, offset, _, weight = convolution_inputs(settings)
    with pytest.raises(RuntimeError, match='needs 8 input channels, got 4'):
        plain({**settings, 'groups': 2})(x, offset, weight)
    with pytest.raises(RuntimeError, match='needs offsets of 36 channels, got 18'):
        plain({**settings, 'deform_groups': 2})(x, offset, weight)


def test_deformable_attention(stand_in):
    """Outside of the image values are 0, between its border and the first pixels they fade."""
    stand_in('multi_scale_deform_attn')
    value, locations, weights = attention_inputs()
    expected = torch.zeros(2, 4, 2, 3)
    start = 0
    for level, (height, width) in enumerate(SHAPES.tolist()):
        image = functional.pad(
            value[:, start : start + height * width].view(2, height, width, 2, 3),
            (0, 0, 0, 0, 2, 2, 2, 2),
        )
        start += height * width
        for b, q, h, p in itertools.product(range(2), range(4), range(2), range(3)):
            x, y = locations[b, q, h, level, p].tolist()
            y, x = y * height - 0.5 + 2, x * width - 0.5 + 2
            for c in range(3):
                seen = value_at(image[b, :, :, h, c], y, x)
                expected[b, q, h, c] += weights[b, q, h, level, p] * seen
    result = attend(value, locations, weights)
    torch.testing.assert_close(result, expected.flatten(2), rtol=1e-5, atol=1e-5)
