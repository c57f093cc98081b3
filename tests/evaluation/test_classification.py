import math

import pytest
import torch
from evaluation.pixel_scenes import PixelEncoder

from cotap_mm.evaluation import knn_classification, linear_classification
from cotap_mm.evaluation.classification import cls_features


def images(count, seed=0, spread=60):
    """Grey images, red, green or blue by class, with noise."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        label = index % 3
        colour = torch.full((3, ), 100.)
        colour[label] += 60
        colour = colour + spread * torch.randn(3, generator=generator)
        image = colour.clamp(0, 255).to(torch.uint8).view(3, 1, 1).expand(3, 8, 8)
        samples.append(dict(image=image, label=label))
    return samples


def knn_by_hand(known, asked, k, temperature):
    hits = 0
    for feature, label in zip(asked.features, asked.labels):
        cosines = [float(feature @ other / feature.norm() / other.norm())
                   for other in known.features]
        best = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
        votes = [0., 0., 0.]
        for i in best:
            votes[int(known.labels[i])] += math.exp(cosines[i] / temperature)
        hits += votes.index(max(votes)) == int(label)
    return 100 * hits / len(asked.labels)


def test_knn_matches_two_loops():
    train, val = images(31), images(23, seed=1)
    known, asked = (cls_features(PixelEncoder(), each, 3) for each in (train, val))
    found = knn_classification(PixelEncoder(), train, val, 3, k=7, temperature=0.3,
                               grid_k=(3, 100), grid_temperature=(0.1, 1.0))
    assert found['top1'] == pytest.approx(knn_by_hand(known, asked, 7, 0.3))
    assert found['top5'] == 100  # of three classes
    grid = {t: knn_by_hand(known, asked, 3, t) for t in (0.1, 1.0)}
    best = found['best_of_grid']
    assert best['k'] == 3 and best['top1'] == pytest.approx(max(grid.values()))
    assert best['top1'] == pytest.approx(grid[best['temperature']])


def test_knn_matches_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier
    train, val = images(40), images(30, seed=1)
    known, asked = (cls_features(PixelEncoder(), each, 3) for each in (train, val))
    model = KNeighborsClassifier(5, metric='cosine',
                                 weights=lambda distance: torch.exp(
                                     (1 - torch.as_tensor(distance)) / 0.07).numpy())
    model.fit(known.features.numpy(), known.labels.numpy())
    wanted = 100 * model.score(asked.features.numpy(), asked.labels.numpy())
    found = knn_classification(PixelEncoder(), train, val, 3, k=5)
    assert found['top1'] == pytest.approx(wanted)


def test_features_are_in_the_order_of_the_data():
    found = cls_features(PixelEncoder(), images(5), 3, batch_size=2)
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    one = cls_features(PixelEncoder(), images(5)[4:], 3)
    assert torch.equal(found.features[4], one.features[0])


def test_linear_layer_learns_and_reports_the_last_epoch():
    clean = linear_classification(PixelEncoder(), images(60, spread=5), images(30, 1, 5), 3,
                                  epochs=40, lr=0.1, train_batch=16)
    assert clean['top1'] == 100 and clean['best_of_epochs']['top1'] == 100
    noisy = linear_classification(PixelEncoder(), images(60), images(30, 1), 3, epochs=5, lr=0.1,
                                  train_batch=16)
    assert noisy['top1'] <= noisy['best_of_epochs']['top1']
    best = noisy['best_of_epochs']['epoch']
    again = linear_classification(PixelEncoder(), images(60), images(30, 1), 3, epochs=best,
                                  lr=0.1, train_batch=16)
    assert again['top1'] == noisy['best_of_epochs']['top1']


def test_shuffled_labels_are_at_chance():
    train = images(90, spread=5)
    generator = torch.Generator().manual_seed(0)
    shuffled = [dict(sample, label=int(label)) for sample, label in
                zip(train, torch.randint(3, (90, ), generator=generator))]
    found = knn_classification(PixelEncoder(), shuffled, images(300, 1, 5), 3)
    assert 15 < found['top1'] < 55


@pytest.mark.parametrize('function, options, message', [
    (knn_classification, dict(k=50), 'k must be in 1..9'),
    (knn_classification, dict(temperature=0), 'temperatures must be positive'),
    (knn_classification, dict(num_classes=2), 'labels must be 0..1, got 2'),
    (knn_classification, dict(train=[]), 'must hold images'),
    (linear_classification, dict(epochs=0), 'epochs must be at least 1'),
])
def test_bad_input(function, options, message):
    given = dict(train=images(9), val=images(3), num_classes=3)
    if function is knn_classification:
        given['k'] = 3
    with pytest.raises(ValueError, match=message):
        function(PixelEncoder(), **{**given, **options})
