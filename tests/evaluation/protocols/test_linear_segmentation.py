from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cotap_mm.evaluation import LabeledSet, linear_segmentation
from cotap_mm.evaluation.protocols.linear_head import (
    VARIANTS,
    CachedImage,
    _rate,
    linear_settings,
    train_head,
)
from cotap_mm.evaluation.protocols.linear_segmentation import cache_features
from tests.helpers.pixel_scenes import PixelEncoder, noise_scenes, run_protocol, scenes


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_learns_linearly_separable_classes(variant):
    found = linear_segmentation(
        PixelEncoder(),
        LabeledSet(scenes(6), 3),
        LabeledSet(scenes(4, seed=1), 3),
        variant,
        steps=60,
        lr=0.3,
        train_batch=6,
    )
    assert found['mIoU'] > 70  # borders between patches are blurred by the bilinear map
    assert found['settings']['variant'] == variant and found['settings']['lr'] == 0.3


def test_constant_features_predict_one_class():
    constant = PixelEncoder(lambda x: torch.ones_like(x))
    found = linear_segmentation(
        constant,
        LabeledSet(scenes(6), 3),
        LabeledSet(scenes(4, seed=1), 3),
        steps=20,
        train_batch=6,
    )
    # One class everywhere: its IoU is its share of the pixels, other IoUs are 0.
    assert found['mIoU'] == pytest.approx(found['aAcc'] / 3, abs=1e-6)


def test_perfect_features_score_100():
    # Labels on the patch grid, so upsampling does not blur borders.
    train, val = (
        [dict(each, label=each['label'][::4, ::4]) for each in scenes(count, seed=count)]
        for count in (6, 4)
    )
    found = linear_segmentation(
        PixelEncoder(), LabeledSet(train, 3), LabeledSet(val, 3), steps=60, lr=0.3, train_batch=6
    )
    assert found['mIoU'] == pytest.approx(100) and found['aAcc'] == pytest.approx(100)


def slow_training(encoder, train, val, variant, steps, lr):
    """All pixels, one image at a time, without batches or caching.

    Returns weights (3, 3), bias (3,), and the IoU of each class.
    """
    weight = torch.empty(3, 3).normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    weight.requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    optimizer = dict(
        cotap=lambda: torch.optim.Adam([weight, bias], lr=lr),
        dinov2=lambda: torch.optim.AdamW([weight, bias], lr=lr, weight_decay=1e-3),
        leopart=lambda: torch.optim.SGD([weight, bias], lr=lr, momentum=0.9, weight_decay=1e-4),
    )[variant]()
    side = 100 if variant == 'leopart' else None

    def patches(sample):
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        return encoder(((sample['image'] / 255.0 - mean) / std)[None]).patches[0]

    rows = torch.cat([patches(sample).half().double().flatten(1) for sample in train], dim=1)
    shift, scale = rows.mean(dim=1), (rows.var(dim=1, unbiased=False) + 1e-5).sqrt()

    def enlarge(maps, size):
        return F.interpolate(maps[None], size, mode='bilinear', align_corners=False)[0]

    def prepared(sample, learning):
        features, label = patches(sample), sample['label']
        if side:  # features and labels are resized to one grid
            features = enlarge(features, (side, side))
            places = ((torch.arange(side) + 0.5) * len(label) / side).long()
            label = label[places][:, places]
        features = features.half().float() if learning else features
        if variant == 'dinov2':
            features = (features - shift.float()[:, None, None]) / scale.float()[:, None, None]
        logits = torch.einsum('kc,chw->khw', weight, features) + bias[:, None, None]
        return enlarge(logits, tuple(label.shape)), label

    for step in range(steps):
        rate = dict(
            cotap=1.0,
            dinov2=(step + 1) / 2 if step < 2 else 1 - (step - 2) / (steps - 2),
            leopart=0.1 if step >= 0.8 * steps else 1.0,
        )[variant]
        optimizer.param_groups[0]['lr'] = lr * rate
        losses = [
            -logits.log_softmax(0).gather(0, label.clamp(max=2)[None])[0][label != 255]
            for logits, label in (prepared(sample, True) for sample in train)
        ]
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        optimizer.step()
    both, either = [0] * 3, [0] * 3
    for sample in val:
        logits, label = prepared(sample, False)
        guess = logits.argmax(dim=0)[label != 255]
        label = label[label != 255]
        for kind in range(3):
            both[kind] += int(((guess == kind) & (label == kind)).sum())
            either[kind] += int(((guess == kind) | (label == kind)).sum())
    return weight.detach(), bias.detach(), [100 * b / e for b, e in zip(both, either)]


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_matches_slow_training(variant):
    train, val = scenes(2) + noise_scenes(1), noise_scenes(1) + scenes(1, seed=1)
    steps, lr = 20, dict(cotap=0.05, dinov2=0.05, leopart=0.3)[variant]
    found = linear_segmentation(
        PixelEncoder(),
        LabeledSet(train, 3),
        LabeledSet(val, 3),
        variant,
        steps=steps,
        lr=lr,
        train_batch=3,
    )
    weight, bias, wanted = slow_training(PixelEncoder(), train, val, variant, steps, lr)
    settings = linear_settings(variant, steps, lr, 3, None)
    cached = cache_features(PixelEncoder(), LabeledSet(train, 3, batch_size=2), settings.map_size)
    layer = train_head(cached, 3, settings, torch.device('cpu'), 0)[-1]
    torch.testing.assert_close(layer.weight[:, :, 0, 0], weight, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(layer.bias, bias, rtol=2e-3, atol=2e-4)
    assert found['IoU'] == pytest.approx(wanted, abs=0.5)  # rounding may flip single pixels
    assert len({round(each) for each in wanted}) == 3 and min(wanted) > 5


def test_batch_norm_uses_the_statistics_of_the_training_set():
    cached = cache_features(PixelEncoder(), LabeledSet(noise_scenes(3), 3, batch_size=2))
    head = train_head(
        cached, 3, linear_settings('dinov2', 1, None, None, None), torch.device('cpu'), 0
    )
    rows = torch.cat([each.features.float().flatten(1) for each in cached], dim=1)
    assert torch.allclose(head[0].running_mean, rows.mean(1), atol=1e-3)
    assert torch.allclose(head[0].running_var, rows.var(1, unbiased=False), atol=1e-3)


def test_leopart_scores_at_100_by_100():
    cached = cache_features(PixelEncoder(), LabeledSet(noise_scenes(1), 3, batch_size=1), 100)
    assert isinstance(cached[0], CachedImage)
    assert cached[0].features.shape[1:] == cached[0].label.shape == (100, 100)


def test_settings_match_the_publications():
    found = {
        name: (
            each.optimizer.__name__,
            each.options,
            each.batch_size,
            each.steps,
            each.decay,
            each.warmup,
        )
        for name, each in VARIANTS.items()
    }
    assert found == dict(
        cotap=('Adam', dict(lr=3e-3), 128, 782, 'constant', 0),  # 100,000 images
        dinov2=('AdamW', dict(lr=1e-3, weight_decay=1e-3), 16, 40_000, 'linear', 1500),
        # 25 epochs of VOC's 10,582 images, a tenth of the learning rate after 20 epochs
        leopart=('SGD', dict(lr=0.01, momentum=0.9, weight_decay=1e-4), 60, 4400, 'step', 0),
    )


def test_schedules():
    constant, linear, step = (
        linear_settings('cotap', 10, None, None, decay) for decay in ('constant', 'linear', 'step')
    )
    assert [_rate(i, constant) for i in (0, 9)] == [1, 1]
    assert [_rate(i, linear) for i in (0, 5, 10)] == [1, 0.5, 0]
    assert [_rate(i, step) for i in (7, 8)] == [1, 0.1]
    warm = linear_settings('dinov2', 100, None, None, None)
    assert _rate(0, warm) == 0.1 and _rate(9, warm) == 1 and _rate(100, warm) == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(variant='dino'), 'one of cotap, dinov2, leopart, got'),
        (dict(steps=0), 'steps must be positive'),
        (dict(lr=-1), 'lr must be positive'),
        (dict(decay='cosine'), 'constant, linear, step'),
        (dict(num_classes=2), r'labels must be 0..1 or 255 \(ignored\), got 2'),
        (dict(train=[]), 'must contain images'),
    ],
)
def test_bad_input(options, message):
    given = dict(train=scenes(2), val=scenes(1), steps=1)
    with pytest.raises(ValueError, match=message):
        run_protocol(linear_segmentation, PixelEncoder(), **{**given, **options})
