from __future__ import annotations

import pytest
import torch
from mmpretrain.models import VisionTransformer
from torch import nn

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.sliding_window import window_starts
from cotap_mm.evaluation import CoTAPEncoder, ViTEncoder
from cotap_mm.visualization import encode_large


def tiny_vit():
    torch.manual_seed(0)
    vit = VisionTransformer(
        arch=dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
        out_type='raw',
    )
    for value in vit.parameters():
        nn.init.normal_(value, std=0.2)
    return ViTEncoder(vit)


class PlaceEncoder(Encoder):
    """Computes mean color, row and column in the encoded window; records the window sizes."""

    def __init__(self):
        super().__init__(nn.Linear(1, 1), 4)
        self.seen = []

    def _encode(self, images):
        self.seen.append(tuple(images.shape[2:]))
        color = nn.functional.avg_pool2d(images, 4)[:, :1]  # (B, 1, h, w)
        rows, columns = torch.meshgrid(
            *(torch.arange(n).float() for n in color.shape[2:]), indexing='ij'
        )
        place = torch.stack([rows, columns]).expand(len(images), -1, -1, -1)
        return color.mean(dim=(2, 3)), torch.cat([color, place], dim=1)


def by_hand(images, window, stride):
    """Reference with loops over windows and patches; all units are patches of 4 pixels."""
    rows, columns = images.shape[2] // 4, images.shape[3] // 4
    sums = torch.zeros(len(images), 3, rows, columns)
    weights = torch.zeros(rows, columns)

    def starts(length):
        found, at = [], 0
        while at + window < length:
            found.append(at)
            at += stride
        return [*found, length - window]

    for top in starts(rows):
        for left in starts(columns):
            for r in range(window):
                for c in range(window):
                    weight = min(r + 1, window - r) * min(c + 1, window - c)
                    y, x = top + r, left + c
                    color = images[:, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean(dim=(1, 2))
                    sums[:, 0, y, x] += weight * color
                    sums[:, 1, y, x] += weight * r
                    sums[:, 2, y, x] += weight * c
                    weights[y, x] += weight
    return sums / weights


def test_one_window_is_the_plain_encoding():
    encoder, images = tiny_vit(), torch.rand(2, 3, 32, 48)
    plain = encoder(images)
    for window in (None, (32, 48), 400):
        found = encode_large(encoder, images, window=window)
        torch.testing.assert_close(found.patches, plain.patches)
        torch.testing.assert_close(found.cls, plain.cls)


def test_scale_gives_a_finer_map_of_the_enlarged_image():
    encoder, images = tiny_vit(), torch.rand(1, 3, 32, 48)
    large = nn.functional.interpolate(images, (64, 96), mode='bilinear', antialias=True)
    found = encode_large(encoder, images, scale=2)
    assert found.patches.shape == (1, 32, 8, 12)
    torch.testing.assert_close(found.patches, encoder(large).patches)


@pytest.mark.parametrize('window, stride', [(3, 2), (4, 1), (3, 3), (2, None)])
def test_overlaps_are_weighted_means(window, stride):
    images = torch.rand(2, 3, 20, 28)
    found = encode_large(
        PlaceEncoder(), images, window=4 * window, stride=None if stride is None else 4 * stride
    )
    torch.testing.assert_close(found.patches, by_hand(images, window, stride or window // 2))


def test_mean_colors_do_not_depend_on_windows(make_algorithm):
    encoder, images = CoTAPEncoder(make_algorithm()), torch.rand(2, 3, 40, 56)
    plain = encoder(images)
    found = encode_large(encoder, images, window=(24, 16))
    torch.testing.assert_close(found.patches, plain.patches)
    constant = images * 0 + 0.3
    torch.testing.assert_close(
        encode_large(encoder, constant, window=16).cls, encoder(constant).cls
    )


def test_windows_have_one_size_and_are_rounded_to_patches():
    encoder = PlaceEncoder()
    found = encode_large(encoder, torch.rand(1, 3, 21, 31), window=13)
    assert set(encoder.seen) == {(12, 12)} and found.patches.shape[2:] == (5, 8)


@pytest.mark.parametrize('length', range(1, 12))
@pytest.mark.parametrize('window', (1, 2, 5))
@pytest.mark.parametrize('stride', (1, 2, 5))
def test_windows_cover_every_patch_inside_the_image(length, window, stride):
    window, stride = min(window, length), min(stride, window, length)
    covered = [0] * length
    for start in window_starts(length, window, stride):
        assert start >= 0 and start + window <= length
        for place in range(start, start + window):
            covered[place] += 1
    assert min(covered) >= 1


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(scale=0), 'scale must be positive, got 0'),
        (dict(window=3), 'window must be at least a patch of 4 pixels, got 3 x 3'),
        (dict(window=8, stride=2), 'stride must be at least a patch'),
        (
            dict(window=8, stride=12),
            'stride must not exceed the window, which is 2 patches .* got 3',
        ),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        encode_large(PlaceEncoder(), torch.rand(1, 3, 16, 16), **options)
