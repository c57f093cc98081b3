from __future__ import annotations

import pytest
import torch
from torch import nn

from cotap_mm.evaluation import CoTAPEncoder, LabeledSet, normalize_images
from cotap_mm.evaluation.metrics import pixel_counts
from cotap_mm.evaluation.protocols.foreground import foreground, jaccard
from tests.helpers.pixel_scenes import PATCH, PixelEncoder, noise_scenes, run_protocol, scenes
from tests.helpers.tiny import build_tiny

SHARP = dict(sigma=0.01)  # no blur, as in DINO


class ColorAttention(PixelEncoder):
    """CLS attention is the first color channels (heads); prototype attention is all three."""

    def __init__(self, heads=2, prototypes=True, change=lambda maps: maps):
        super().__init__()
        self.heads, self.prototypes, self.change = heads, prototypes, change

    def _colors(self, images):
        pooled = nn.functional.avg_pool2d(self._fit(images), PATCH) + 3  # positive
        return self.change(pooled)

    def cls_attention(self, images):
        if not self.heads:
            return super().cls_attention(images)
        maps = self._colors(images)[:, : self.heads]
        return maps / maps.sum(dim=(2, 3), keepdim=True)

    def prototype_attention(self, images):
        if not self.prototypes:
            return super().prototype_attention(images)
        maps = self._colors(images).movedim(1, 3)[:, None]  # (B, 1, h, w, 3)
        return maps / maps.sum(dim=-1, keepdim=True)


def cut_by_hand(weights, mass):
    """Strongest patches whose sum reaches the mass."""
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept, total = set(), 0.0
    while total < mass * sum(weights) - 1e-6:
        total += weights[order[len(kept)]]
        kept.add(order[len(kept)])
    return kept


def overlap_by_hand(kept, label, kinds, width):
    """Jaccard index of a set of patches and the pixels of classes, pixel by pixel."""
    both = either = 0
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            if label[y, x] != 255:
                found = (y // PATCH) * width + x // PATCH in kept
                true = int(label[y, x]) in kinds
                both += found and true
                either += found or true
    return both / either


def by_hand(encoder, dataset, kinds, mass):
    """Mean scores over images."""
    rows = []
    for sample in dataset:
        image = normalize_images(sample['image'][None])
        heads = encoder.cls_attention(image)[0]
        width = heads.shape[2]
        prototypes = encoder.prototype_attention(image)[0].mean(dim=0).movedim(2, 0)
        cuts = [cut_by_hand(m.flatten().tolist(), mass) for m in [heads.mean(0), *heads]]
        objects = [[kind] for kind in kinds if (sample['label'] == kind).any()]
        if not objects:
            continue

        def best(masks, objects=objects, label=sample['label'], width=width):
            return sum(
                max(overlap_by_hand(mask, label, each, width) for mask in masks) for each in objects
            ) / len(objects)

        lowered = [cut_by_hand((m - m.min()).flatten().tolist(), mass) for m in prototypes]
        rows.append(
            [
                *(overlap_by_hand(cut, sample['label'], kinds, width) for cut in cuts),
                best(cuts[1:]),
                best(lowered),
                overlap_by_hand(set(range(10**4)), sample['label'], kinds, width),
            ]
        )
    return [100 * sum(column) / len(rows) for column in zip(*rows)]


@pytest.mark.parametrize('kinds', [None, [0, 2]])
def test_matches_slow_reference(kinds):
    encoder, dataset = ColorAttention(), noise_scenes(4)
    dataset.append(dict(image=dataset[0]['image'], label=torch.full((16, 16), 1)))
    found = foreground(encoder, LabeledSet(dataset, 3, batch_size=2), kinds, mass=0.7, **SHARP)
    mean, first, second, best, bound, everything = by_hand(encoder, dataset, kinds or [1, 2], 0.7)
    assert found['jaccard'] == pytest.approx(mean)
    assert found['jaccard_heads'] == pytest.approx([first, second])
    assert found['best_head_per_object'] == pytest.approx(best)
    assert found['upper_bound_prototypes'] == pytest.approx(bound)
    assert found['jaccard_everything'] == pytest.approx(everything)
    assert len({round(each, 3) for each in (mean, first, second, best, bound)}) == 5
    assert found['num_images'] == (
        5 if kinds is None else 4
    )  # an image with only class 1 has no foreground
    assert list(found)[0] == 'jaccard'


def test_attention_on_the_object_scores_100():
    """Red patches are class 0; head 0 attends to red."""

    def loud(maps):
        return (maps - maps.amin(dim=(2, 3), keepdim=True)) > 1

    encoder = ColorAttention(heads=3, change=lambda maps: loud(maps).float() + 1e-6)
    found = foreground(encoder, LabeledSet(scenes(6), 3), [0], mass=0.99, **SHARP)
    assert found['jaccard_heads'][0] == pytest.approx(100)
    assert found['jaccard_best_head'] == pytest.approx(100) and found['best_head'] == 0
    assert found['best_head_per_object'] == pytest.approx(100)
    assert max(found['jaccard_heads'][1:]) == pytest.approx(0)
    all_objects = foreground(encoder, LabeledSet(scenes(6), 3), [0, 1, 2], mass=0.99, **SHARP)
    assert all_objects['best_head_per_object'] == pytest.approx(100)
    assert all_objects['upper_bound_prototypes'] == pytest.approx(100)
    assert all_objects['num_objects'] == 18 and all_objects['jaccard_best_head'] < 50


def test_attention_to_everything_is_the_baseline():
    encoder = ColorAttention(change=torch.ones_like)
    found = foreground(encoder, LabeledSet(noise_scenes(4), 3), mass=1.0)
    assert found['jaccard'] == pytest.approx(found['jaccard_everything'])


def test_equals_the_foreground_in_training():
    torch.manual_seed(0)
    encoder = CoTAPEncoder(build_tiny().eval())
    dataset = noise_scenes(3, size=32)
    values = []
    for sample in dataset:
        mask = encoder.foreground(normalize_images(sample['image'][None]))[0]
        found = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
        label = sample['label']
        true, known = (label == 1) | (label == 2), label != 255
        values.append(((found & true).sum() / ((found | true) & known).sum()).item())
    result = foreground(encoder, LabeledSet(dataset, 3))
    assert result['jaccard'] == pytest.approx(100 * sum(values) / 3)
    assert result['upper_bound_prototypes'] > 0


def test_unavailable_attention_is_omitted():
    found = foreground(ColorAttention(heads=0), LabeledSet(scenes(2), 3))
    assert list(found) == [
        'upper_bound_prototypes',
        'jaccard_everything',
        'num_images',
        'num_objects',
    ]
    found = foreground(ColorAttention(prototypes=False), LabeledSet(scenes(2), 3))
    assert 'jaccard' in found and 'upper_bound_prototypes' not in found
    with pytest.raises(ValueError, match='PixelEncoder has neither .* foreground needs one'):
        foreground(PixelEncoder(), LabeledSet(scenes(2), 3))


def test_labels_of_any_size():
    label = torch.tensor([[0, 0, 1], [0, 255, 1], [1, 1, 255]])
    assert pixel_counts(label, (2, 2), 2).tolist() == [[3, 0], [0, 2], [0, 2], [0, 0]]
    masks = torch.tensor([[True, True, False, False]])
    counts = pixel_counts(label, (2, 2), 2).double()
    assert jaccard(masks, counts, counts.sum(dim=1)).tolist() == [[3 / 5, 2 / 7]]
    large = [dict(each, label=each['label'].repeat_interleave(3, 0)) for each in noise_scenes(3)]
    for name in ('jaccard', 'upper_bound_prototypes'):
        assert foreground(ColorAttention(), LabeledSet(large, 3))[name] == pytest.approx(
            foreground(ColorAttention(), LabeledSet(noise_scenes(3), 3))[name]
        )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(foreground_classes=[3]), r'some of 0\.\.2, got \[3\]'),
        (dict(foreground_classes=[]), 'foreground_classes must be some of'),
        (dict(num_classes=2), 'check num_classes'),
        (dict(mass=0), r'mass must be in \(0, 1\]'),
        (
            dict(
                dataset=[
                    dict(image=torch.zeros(3, 8, 8, dtype=torch.uint8), label=torch.zeros(8, 8))
                ]
            ),
            'none of 1 images shows a foreground class',
        ),
        (dict(dataset=[]), 'none of 0 images'),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run_protocol(foreground, ColorAttention(), **{'dataset': scenes(2), **options})
