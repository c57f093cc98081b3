"""Foregrounds: an object in the middle, and outliers that steal the attention of CLS."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cotap_mm.command_line.config_file import load_config
from cotap_mm.models.modules import (
    ClippedAttention,
    ClsAttention,
    KeyNormAttention,
    MedianAttention,
    PcaForeground,
    border_excess,
)
from cotap_mm.ops import foreground_mask, local_median
from cotap_mm.registry import MODELS, build
from tests.helpers.tiny import build_tiny, make_inputs
from tests.helpers.toy_config import toy_options

GRID = (8, 10)
OUTLIERS = [(0, 0), (7, 9)]
KINDS = (ClsAttention, ClippedAttention, KeyNormAttention, MedianAttention, PcaForeground)


def object_mask():
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[2:6, 3:7] = True
    return mask


def iou(mask, wanted):
    return float((mask & wanted).sum() / (mask | wanted).sum())


class Planted:
    """A network of one head whose CLS looks at the object, and more at outliers.

    Queries and keys are the tokens themselves. Outliers have the direction of background, except
    for a small part, and a norm 12 times as large, or another.
    """

    num_prefix = 1

    def __init__(self, outliers=OUTLIERS, norm=12, direction=(0.3, 1.0)):
        generator = torch.Generator().manual_seed(0)
        objects, background = torch.eye(8)[0], torch.eye(8)[1]
        tokens = torch.where(object_mask()[..., None], objects, background)
        tokens = tokens + 0.1 * torch.randn(*GRID, 8, generator=generator)
        for row, column in outliers:
            tokens[row, column] = norm * (direction[0] * objects + direction[1] * background)
        cls = 8 * objects
        self.tokens = torch.cat([cls[None], tokens.flatten(0, 1)])[None].expand(2, -1, -1)
        qkv = nn.Linear(8, 24, bias=False)
        qkv.weight.data.copy_(torch.cat([torch.eye(8)] * 3))
        attention = SimpleNamespace(qkv=qkv, num_heads=1, q_norm=None, k_norm=None)
        self.last_block = SimpleNamespace(ln1=nn.Identity(), attn=attention)

    def rotation(self, grid):
        return None

    def cls_attention(self, entering, grid):
        logits = entering[:, :1] @ entering.transpose(1, 2) / 8**0.5
        return logits.softmax(-1)[:, None, 0, 1:]


@pytest.mark.parametrize(
    'kind', [ClippedAttention, KeyNormAttention, MedianAttention, PcaForeground]
)
def test_outliers_do_not_take_the_foreground(kind):
    network = Planted()
    plain = ClsAttention()(network, network.tokens, GRID)[0]
    assert iou(plain, object_mask()) < 0.1 and plain[0, 0]  # the corners have all attention
    mask = kind()(network, network.tokens, GRID)
    assert mask.shape == (2, *GRID) and mask.dtype == torch.bool
    assert iou(mask[0], object_mask()) > 0.5, mask[0].int()
    assert not any(mask[0][where] for where in OUTLIERS)
    assert border_excess(plain[None]) > 0.02 and border_excess(mask) < -0.4


def test_without_outliers_clipping_changes_nothing():
    network = Planted(outliers=[])
    plain, clipped = (
        kind()(network, network.tokens, GRID) for kind in (ClsAttention, ClippedAttention)
    )
    assert torch.equal(plain, clipped) and iou(plain[0], object_mask()) > 0.5


def test_only_the_median_sets_aside_outliers_of_usual_norm():
    """Tokens that CLS attends to by their direction, with a norm below the limit of outliers."""
    network = Planted(norm=1.4, direction=(1.0, 0.0))
    for kind in (ClsAttention, ClippedAttention):
        mask = kind(mass=0.3)(network, network.tokens, GRID)[0]
        assert all(mask[where] for where in OUTLIERS), kind
    mask = MedianAttention(mass=0.3)(network, network.tokens, GRID)[0]
    assert not any(mask[where] for where in OUTLIERS)
    assert not (mask & ~object_mask()).any() and mask.sum() >= 4


def test_median_of_attention_is_of_the_mean_over_heads():
    torch.manual_seed(0)
    model, images = build_tiny(num_registers=1), torch.randn(2, 3, 32, 24)
    backbone = model.teacher.backbone
    entering, grid = backbone.forward_entering(images)
    median = MedianAttention().attention(backbone, entering, grid)
    mean = backbone.cls_attention(entering, grid).mean(dim=1).unflatten(1, grid)
    assert torch.equal(median, local_median(mean).flatten(1)[:, None])


def test_every_image_has_foreground():
    """Also if all patches are equal, or CLS looks at an outlier alone."""
    network = Planted(outliers=[(4, 4)])
    network.tokens = torch.zeros(2, 81, 8)
    network.tokens[:, 45, 0] = 100
    for kind in KINDS:
        mask = kind()(network, network.tokens, GRID)
        assert mask.flatten(1).any(1).all()
        assert kind()(network, torch.zeros(2, 81, 8), GRID).flatten(1).any(1).all()


def test_border_excess():
    middle = torch.zeros(GRID, dtype=torch.bool)
    middle[2:6, 2:8] = True
    assert border_excess(middle) == pytest.approx(-1.0)
    assert border_excess(~middle) == pytest.approx(1.0)
    assert border_excess(object_mask()) == pytest.approx(-16 / 24)
    assert border_excess(torch.ones(3, 2, *GRID, dtype=torch.bool)) == pytest.approx(0.0)


def test_the_default_is_that_of_the_paper():
    torch.manual_seed(0)
    model, images = build_tiny(), torch.randn(2, 3, 32, 32)
    entering, _, grid = model.teacher.backbone.forward_tokens(images)
    attention = model.teacher.backbone.cls_attention(entering, grid)
    assert torch.equal(model.foreground(images), foreground_mask(attention.unflatten(2, grid)))


@pytest.mark.parametrize('kind', [kind.__name__ for kind in KINDS[1:]])
def test_each_kind_trains(kind):
    torch.manual_seed(0)
    model = build_tiny(num_registers=2)
    names = set(model.state_dict())
    model.masking = build(MODELS, dict(type=kind))
    model.monitor_now = True
    losses = model.loss(make_inputs())
    assert all(torch.isfinite(value) for value in losses.values())
    assert -1 <= losses['monitor/foreground_border_excess'] <= 1
    assert set(model.state_dict()) == names


def test_options_without_a_type():
    config = load_config('vits_folder')
    config.merge_from_dict(toy_options(batch_size=2, iters=4))
    config.merge_from_dict({'model.foreground.mass': 0.3, 'model.init_cfg': None})
    masking = build(MODELS, config.model.to_dict()).masking
    assert type(masking) is ClsAttention and masking.mass == 0.3
