"""Levels of the pyramid: sizes, channels, order, invalid arguments."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.models import CoTAPViT, SimpleFeaturePyramid
from cotap_mm.registry import MODELS, build


def test_levels():
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    vit = CoTAPViT(arch=arch, img_size=64, patch_size=8, num_prototypes=2)
    neck = build(
        MODELS, dict(type='SimpleFeaturePyramid', in_channels=vit.out_channels[-1], out_channels=8)
    )
    levels = neck(vit(torch.randn(2, 3, 64, 96)))  # 8 x 12 patches
    assert [tuple(level.shape[1:]) for level in levels] == [
        (8, 32, 48),
        (8, 16, 24),
        (8, 8, 12),
        (8, 4, 6),
        (8, 2, 3),
    ]
    sum(level.sum() for level in levels).backward()
    assert all(value.grad is not None for value in neck.parameters())


def test_only_the_last_level_is_used_and_positions_are_kept():
    neck = SimpleFeaturePyramid(16, 8, num_outs=4)
    other, last = torch.randn(1, 16, 8, 8), torch.zeros(1, 16, 8, 8)
    for first, second in zip(neck((other, last)), neck((last,))):
        assert torch.equal(first, second)
    corner = last.clone()
    corner[:, :, :4, :4] = torch.randn(16, 4, 4)  # changes the top left corner only
    for level, changed in zip(neck((last,)), neck((corner,))):
        difference = (level - changed).abs().sum(dim=(0, 1))
        size = len(difference)
        assert difference[: size // 2, : size // 2].sum() > 0
        assert difference[size // 2 + 1 :].sum() == difference[:, size // 2 + 1 :].sum() == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(scale_factors=(4, 3)), r'scale_factors must be among 4, 2, 1 and 0.5, got \(4, 3\)'),
        (dict(num_outs=3), 'num_outs must be at least 4'),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(16, 8, **options)
