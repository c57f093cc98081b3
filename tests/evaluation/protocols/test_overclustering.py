from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from cotap_mm.evaluation import LabeledSet, normalize_images, overclustering
from cotap_mm.evaluation.metrics import segmentation_scores
from cotap_mm.evaluation.protocols.overclustering import (
    _as_confusion,
    _standardize_and_reduce,
    cluster_centers,
    match_one_to_one,
)
from tests.helpers.pixel_scenes import PixelEncoder, noise_scenes, run_protocol, scenes

FEW = dict(seeds=(0, 1), num_clusters=(8,), mask_size=16)


@pytest.mark.parametrize('kmeans', ['sklearn', 'faiss'])
def test_perfect_features_score_100(kmeans):
    found = overclustering(
        PixelEncoder(),
        LabeledSet(scenes(6), 3),
        kmeans=kmeans,
        seeds=(0,),
        num_clusters=(3,),
        mask_size=16,
    )
    assert found['mIoU_K3'] == pytest.approx(100)
    assert found['mIoU_hungarian'] == pytest.approx(100)
    assert found['deviation_K3'] == 0


def by_hand(encoder, dataset, num_classes, num_clusters, num_components, side, seed, one_to_one):
    """Features and clusters by scikit-learn, score by loops over clusters, classes and pixels."""
    maps = [encoder(normalize_images(sample['image'][None])).patches[0] for sample in dataset]
    rows = torch.cat([each.flatten(1).T for each in maps]).numpy()
    reduced = PCA(num_components).fit_transform(StandardScaler().fit_transform(rows))
    kmeans = KMeans(num_clusters, n_init=1, max_iter=50, random_state=seed)
    clusters = kmeans.fit(reduced.astype(np.float32)).labels_
    pixels = []  # (cluster, class) of each pixel
    for number, (sample, each) in enumerate(zip(dataset, maps)):
        height, width = each.shape[1:]
        grid = clusters[number * height * width : (number + 1) * height * width].reshape(
            height, width
        )
        rows_, columns_ = sample['label'].shape
        for y in range(side):
            for x in range(side):
                label = int(
                    sample['label'][int((y + 0.5) * rows_ / side), int((x + 0.5) * columns_ / side)]
                )
                if label != 255:
                    pixels.append(
                        (
                            int(
                                grid[int((y + 0.5) * height / side), int((x + 0.5) * width / side)]
                            ),
                            label,
                        )
                    )

    def mean_iou(names):
        values = []
        for kind in range(num_classes):
            both = sum(names[k] == kind == label for k, label in pixels)
            either = sum(names[k] == kind or label == kind for k, label in pixels)
            values.append(both / either)
        return 100 * sum(values) / len(values)

    if one_to_one:
        return max(mean_iou(order) for order in itertools.permutations(range(num_classes)))
    counts = [[pixels.count((k, kind)) for kind in range(num_classes)] for k in range(num_clusters)]
    return mean_iou([row.index(max(row)) for row in counts])


@pytest.mark.parametrize('side', [16, 10])
def test_matches_slow_reference(side):
    encoder = PixelEncoder(lambda x: torch.cat([x, x[:, :1] * x[:, 1:2] + 0.1 * x], dim=1))
    dataset = noise_scenes(6)
    common = dict(num_components=4, seed=7)
    found = overclustering(
        encoder,
        LabeledSet(dataset, 3),
        num_clusters=(9,),
        seeds=(7,),
        num_components=4,
        mask_size=side,
        kmeans='sklearn',
    )
    for key, count, one_to_one in (('mIoU_K9', 9, False), ('mIoU_hungarian', 3, True)):
        wanted = by_hand(encoder, dataset, 3, count, side=side, one_to_one=one_to_one, **common)
        assert found[key] == pytest.approx(wanted)


def test_constant_features_predict_the_largest_class():
    dataset = scenes(6)
    labels = torch.stack([sample['label'] for sample in dataset])
    largest = labels.flatten().bincount().max() / labels.numel()
    noise = torch.Generator().manual_seed(0)
    tiny = PixelEncoder(lambda x: 1 + 1e-3 * torch.rand(x.shape, generator=noise))
    found = overclustering(
        tiny, LabeledSet(dataset, 3), seeds=(0,), num_clusters=(1,), mask_size=16
    )
    assert found['mIoU_K1'] == pytest.approx(100 * largest.item() / 3, abs=1e-4)


def test_matching_is_optimal():
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(0, 50, (4, 4), generator=generator)
    classes = match_one_to_one(table, 0)

    def total(order):
        scores = segmentation_scores(_as_confusion(table, torch.tensor(order)))
        return sum(scores['IoU'])

    assert total(classes.tolist()) == pytest.approx(
        max(total(order) for order in itertools.permutations(range(4)))
    )


def test_unmatched_clusters_become_background():
    table = torch.tensor([[0, 9, 0], [5, 0, 0], [0, 0, 7], [1, 1, 1]])
    assert match_one_to_one(table, 0).tolist() == [1, 0, 2, 0]


def test_reduction_matches_scikit_learn():
    torch.manual_seed(0)
    rows = torch.randn(300, 6) @ torch.randn(6, 6) + 3
    found = _standardize_and_reduce(rows, 2)
    wanted = PCA(2).fit_transform(StandardScaler().fit_transform(rows.numpy()))
    for axis in range(2):  # the sign of an axis is arbitrary
        product = (found[:, axis] * torch.from_numpy(wanted[:, axis])).sum().abs()
        assert product == pytest.approx((wanted[:, axis] ** 2).sum(), rel=1e-3)


@pytest.mark.parametrize('kmeans', ['sklearn', 'faiss'])
def test_centers_of_separate_groups(kmeans):
    torch.manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    rows = places.repeat(20, 1) + 0.1 * torch.randn(60, 2)
    centers = cluster_centers(rows, 3, 0, kmeans)
    assert torch.cdist(places, centers).min(dim=1).values.max() < 0.1


def test_noise_scores_low_and_seeds_differ():
    found = overclustering(PixelEncoder(), LabeledSet(noise_scenes(8), 3), **FEW)
    assert found['mIoU_K8'] < 60 and found['mIoU_hungarian'] < 60
    assert found['deviation_K8'] > 0
    assert list(found)[0] == 'mIoU_K8'


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kmeans='lloyd'), 'auto, faiss, sklearn'),
        (dict(num_clusters=(1000,)), '1000 clusters need at least as many patches, got 32'),
        (dict(seeds=()), 'images and seeds'),
        (dict(num_classes=2), 'labels must be 0..1'),
    ],
)
def test_bad_input(options, message):
    given = dict(dataset=scenes(2), seeds=(0,), num_clusters=(4,))
    with pytest.raises(ValueError, match=message):
        run_protocol(overclustering, PixelEncoder(), **{**given, **options})
