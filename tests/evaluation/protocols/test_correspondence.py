from __future__ import annotations

import math

import pytest
import torch

from cotap_mm.evaluation import LabeledSet, normalize_images
from cotap_mm.evaluation.protocols.correspondence import correspondence, match_patches
from tests.helpers.pixel_scenes import (
    PixelEncoder,
    labels_of_patch,
    noise_scenes,
    run_protocol,
    scenes,
)


def patches_by_hand(encoder, sample, num_classes, purity):
    """List of (unit feature, class) of the used patches."""
    features = encoder(normalize_images(sample['image'][None])).patches[0]
    found = []
    for row in range(features.shape[1]):
        for column in range(features.shape[2]):
            cell = labels_of_patch(sample, row, column)
            counts = [cell.count(c) for c in range(num_classes)]
            if cell and max(counts) >= purity * len(cell):
                feature = features[:, row, column]
                found.append((feature / feature.norm(), counts.index(max(counts))))
    return found


def by_hand(encoder, dataset, pairs, num_classes, purity, mutual=False):
    right, total, chance = ([0.0] * num_classes for _ in range(3))

    def nearest(feature, patches):
        return max(range(len(patches)), key=lambda i: float(feature @ patches[i][0]))

    for i, j in pairs:
        first, second = (patches_by_hand(encoder, dataset[k], num_classes, purity) for k in (i, j))
        classes = [kind for _, kind in second]
        for place, (feature, kind) in enumerate(first):
            if kind not in classes:
                continue
            match = nearest(feature, second)
            if mutual and nearest(second[match][0], first) != place:
                continue
            right[kind] += second[match][1] == kind
            total[kind] += 1
            chance[kind] += classes.count(kind) / len(classes)
    return right, total, chance


@pytest.mark.parametrize(
    'options, pairs',
    [
        (dict(), [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (dict(step=2), [(0, 2), (1, 3), (2, 4)]),
        (dict(mutual=True), [(0, 1), (1, 2), (2, 3), (3, 4)]),
    ],
)
def test_matches_slow_reference(options, pairs):
    encoder, dataset = PixelEncoder(), noise_scenes(5)
    right, total, chance = by_hand(encoder, dataset, pairs, 3, 0.45, options.get('mutual', False))
    found = correspondence(encoder, LabeledSet(dataset, 3, batch_size=2), purity=0.45, **options)
    accuracy = [100 * r / t for r, t in zip(right, total)]
    assert found['classes'] == pytest.approx(accuracy)
    assert found['accuracy'] == pytest.approx(sum(accuracy) / 3)
    assert found['patch_accuracy'] == pytest.approx(100 * sum(right) / sum(total))
    assert found['chance'] == pytest.approx(sum(100 * c / t for c, t in zip(chance, total)) / 3)
    assert found['patch_chance'] == pytest.approx(100 * sum(chance) / sum(total))
    assert found['matched'] == pytest.approx(100 * sum(total) / found['num_patches'])
    assert (found['matched'] < 100) == ('mutual' in options)
    assert found['num_pairs'] == len(pairs) and list(found)[0] == 'accuracy'


def test_perfect_features_score_100():
    found = correspondence(PixelEncoder(), LabeledSet(scenes(5), 3))
    assert found['accuracy'] == found['patch_accuracy'] == 100
    assert found['num_patches'] == 4 * 16  # every patch has one class
    assert found['chance'] == pytest.approx(100 / 3, abs=5)


def test_constant_features_score_at_chance():
    generator = torch.Generator().manual_seed(0)
    noise = PixelEncoder(lambda x: torch.randn(x.shape, generator=generator))
    found = correspondence(noise, LabeledSet(scenes(40), 3))
    assert found['accuracy'] == pytest.approx(found['chance'], abs=5)
    assert found['patch_accuracy'] == pytest.approx(found['patch_chance'], abs=5)
    # Always the same patch of the second image: correct for one class of each pair.
    found = correspondence(PixelEncoder(torch.ones_like), LabeledSet(scenes(100), 3))
    assert found['accuracy'] == pytest.approx(found['chance'], abs=6)


def test_chance_counts_classes_of_the_second_image():
    features = torch.eye(4).view(4, 2, 2)
    counts = match_patches(
        features, features, torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, -1]), 3
    )
    assert counts[0].tolist() == [1, 1, 0]  # correct; the second patch matches another class
    assert counts[1].tolist() == counts[2].tolist() == [2, 1, 0]  # class 2 does not occur
    assert counts[3].tolist() == pytest.approx([2 / 3, 2 / 3, 0])


def test_mutual_matches_are_nearest_in_both_directions():
    first = torch.tensor([[1.0, 0.9], [0.0, 0.1]]).view(2, 1, 2)
    second = torch.tensor([[1.0], [0.0]]).view(2, 1, 1)
    both, one = torch.tensor([0, 0]), torch.tensor([0])
    assert match_patches(first, second, both, one, 1)[1].item() == 2
    counts = match_patches(first, second, both, one, 1, mutual=True)
    assert counts[:3, 0].tolist() == [1, 1, 2]


def test_pairs_without_a_common_class_are_skipped():
    def plain(kind):
        sample = scenes(1)[0]
        return dict(sample, label=torch.full_like(sample['label'], kind))

    found = correspondence(PixelEncoder(), LabeledSet([plain(0), plain(0), plain(1), plain(1)], 3))
    assert found['num_pairs'] == 2 and found['num_patches'] == 32
    assert found['accuracy'] == 100 == found['chance'] and math.isnan(found['classes'][2])
    with pytest.raises(ValueError, match='no pair of images has a class in common'):
        correspondence(PixelEncoder(), LabeledSet([plain(0), plain(1), plain(0)], 3))


def test_nearest_pairs_have_the_most_similar_cls():
    dataset = noise_scenes(4)
    for sample, shade in zip(dataset, (0, 200, 10, 190)):
        sample['image'] = sample['image'] // 16 + torch.tensor([shade, 240, 0])[:, None, None]
        sample['image'] = sample['image'].to(torch.uint8)
    pairs = [(0, 2), (1, 3), (2, 0), (3, 1)]
    right, total, _ = by_hand(PixelEncoder(), dataset, pairs, 3, 0.4)
    found = correspondence(PixelEncoder(), LabeledSet(dataset, 3), pairs='nearest', purity=0.4)
    assert found['classes'] == pytest.approx([100 * r / t for r, t in zip(right, total)])
    assert found['num_pairs'] == 4
    same = [dataset[0]] * 3  # equally similar, and never paired with itself
    assert correspondence(PixelEncoder(), LabeledSet(same, 3), pairs='nearest')['num_pairs'] == 3


def test_images_of_different_sizes():
    mixed = scenes(2) + scenes(2, grid=6)
    found = correspondence(PixelEncoder(), LabeledSet(mixed, 3, batch_size=4))
    assert found['num_patches'] == 16 + 16 + 36 and found['accuracy'] == 100
    resized = correspondence(PixelEncoder(), LabeledSet(mixed, 3, image_size=16), purity=0.1)
    assert resized['num_patches'] == 3 * 16


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(pairs='random'), "consecutive, nearest, got 'random'"),
        (dict(purity=0), r'purity must be in \(0, 1\]'),
        (dict(step=0), 'step must be at least 1'),
        (dict(step=3), 'more than 3 images to make pairs, got 3'),
        (dict(dataset=scenes(1), pairs='nearest'), 'more than 1 images to make pairs, got 1'),
        (dict(num_classes=2), 'check num_classes'),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run_protocol(correspondence, PixelEncoder(), **{'dataset': scenes(3), **options})
