from __future__ import annotations

import math

import pytest
import torch

from cotap_mm.evaluation import LabeledSet, knn_classification, linear_classification
from cotap_mm.evaluation.protocols.cls_features import CLSFeatures, cls_features
from cotap_mm.evaluation.protocols.linear_classification import _accuracy
from tests.helpers.pixel_scenes import PixelEncoder, run_protocol


def images(count, seed=0, spread=60):
    """Noisy gray images with a red, green or blue tint that depends on the class."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        label = index % 3
        color = torch.full((3,), 100.0)
        color[label] += 60
        color = color + spread * torch.randn(3, generator=generator)
        image = color.clamp(0, 255).to(torch.uint8).view(3, 1, 1).expand(3, 8, 8)
        samples.append(dict(image=image, label=label))
    return samples


def knn_by_hand(known, asked, k, temperature):
    hits = 0
    for feature, label in zip(asked.features, asked.labels):
        cosines = [
            float(feature @ other / feature.norm() / other.norm()) for other in known.features
        ]
        best = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
        votes = [0.0, 0.0, 0.0]
        for i in best:
            votes[int(known.labels[i])] += math.exp(cosines[i] / temperature)
        hits += votes.index(max(votes)) == int(label)
    return 100 * hits / len(asked.labels)


def test_knn_matches_two_loops():
    train, val = images(31), images(23, seed=1)
    known, asked = (cls_features(PixelEncoder(), LabeledSet(each, 3)) for each in (train, val))
    found = knn_classification(
        PixelEncoder(),
        LabeledSet(train, 3),
        LabeledSet(val, 3),
        k=7,
        temperature=0.3,
        grid_k=(3, 100),
        grid_temperature=(0.1, 1.0),
    )
    assert found['top1'] == pytest.approx(knn_by_hand(known, asked, 7, 0.3))
    assert found['top5'] == 100  # there are three classes
    grid = {t: knn_by_hand(known, asked, 3, t) for t in (0.1, 1.0)}
    best = found['best_of_grid']
    assert best['k'] == 3 and best['top1'] == pytest.approx(max(grid.values()))
    assert best['top1'] == pytest.approx(grid[best['temperature']])


def test_knn_matches_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    train, val = images(40), images(30, seed=1)
    known, asked = (cls_features(PixelEncoder(), LabeledSet(each, 3)) for each in (train, val))
    model = KNeighborsClassifier(
        5,
        metric='cosine',
        weights=lambda distance: torch.exp((1 - torch.as_tensor(distance)) / 0.07).numpy(),
    )
    model.fit(known.features.numpy(), known.labels.numpy())
    wanted = 100 * model.score(asked.features.numpy(), asked.labels.numpy())
    found = knn_classification(PixelEncoder(), LabeledSet(train, 3), LabeledSet(val, 3), k=5)
    assert found['top1'] == pytest.approx(wanted)


def test_features_have_the_order_of_the_data_set():
    found = cls_features(PixelEncoder(), LabeledSet(images(5), 3, batch_size=2))
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    one = cls_features(PixelEncoder(), LabeledSet(images(5)[4:], 3))
    assert torch.equal(found.features[4], one.features[0])


def test_linear_layer_learns_and_reports_the_last_epoch():
    clean = linear_classification(
        PixelEncoder(),
        LabeledSet(images(60, spread=5), 3),
        LabeledSet(images(30, 1, 5), 3),
        epochs=40,
        lr=0.1,
        train_batch=16,
    )
    assert clean['top1'] == 100 and clean['best_of_epochs']['top1'] == 100
    noisy = linear_classification(
        PixelEncoder(),
        LabeledSet(images(60), 3),
        LabeledSet(images(30, 1), 3),
        epochs=5,
        lr=0.1,
        train_batch=16,
    )
    assert noisy['top1'] <= noisy['best_of_epochs']['top1']
    best = noisy['best_of_epochs']['epoch']
    again = linear_classification(
        PixelEncoder(),
        LabeledSet(images(60), 3),
        LabeledSet(images(30, 1), 3),
        epochs=best,
        lr=0.1,
        train_batch=16,
    )
    assert again['top1'] == noisy['best_of_epochs']['top1']


def linear_by_hand(known, asked, epochs, lr, batch, seed, num_classes=3):
    """Top-1 of each epoch, with explicit gradients of softmax and Adam, one sample at a time."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.empty(num_classes, known.features.shape[1]).normal_(0, 0.01, generator=generator)
    values = [[*row, 0.0] for row in start.tolist()]  # weights and bias of each class
    first, second = ([[0.0] * len(row) for row in values] for _ in range(2))
    step, curve = 0, []

    def scores(feature):
        inputs = [*feature.tolist(), 1.0]
        return inputs, [sum(w * x for w, x in zip(row, inputs)) for row in values]

    for _ in range(epochs):
        order = torch.randperm(len(known.labels), generator=generator).tolist()
        for chosen in (order[i : i + batch] for i in range(0, len(order), batch)):
            gradient = [[0.0] * len(row) for row in values]
            for i in chosen:
                inputs, logits = scores(known.features[i])
                total = sum(math.exp(logit - max(logits)) for logit in logits)
                for c in range(num_classes):
                    error = math.exp(logits[c] - max(logits)) / total - float(c == known.labels[i])
                    for j, x in enumerate(inputs):
                        gradient[c][j] += error * float(x) / len(chosen)
            step += 1
            for c, row in enumerate(values):
                for j in range(len(row)):
                    g = float(gradient[c][j])
                    first[c][j] = 0.9 * first[c][j] + 0.1 * g
                    second[c][j] = 0.999 * second[c][j] + 0.001 * g * g
                    mean = first[c][j] / (1 - 0.9**step)
                    row[j] -= lr * mean / (math.sqrt(second[c][j] / (1 - 0.999**step)) + 1e-8)
        hits = 0
        for feature, label in zip(asked.features, asked.labels):
            logits = scores(feature)[1]
            hits += logits.index(max(logits)) == int(label)
        curve.append(100 * hits / len(asked.labels))
    return curve


def test_linear_layer_matches_slow_training():
    train, val = images(31), images(40, seed=1)
    known, asked = (cls_features(PixelEncoder(), LabeledSet(each, 3)) for each in (train, val))
    curve = linear_by_hand(known, asked, epochs=4, lr=0.05, batch=8, seed=3)
    assert len(set(curve)) > 1 and 40 < curve[-1] < 95  # not trivial
    for epochs in (1, 4):
        found = linear_classification(
            PixelEncoder(),
            LabeledSet(train, 3),
            LabeledSet(val, 3),
            epochs=epochs,
            lr=0.05,
            train_batch=8,
            seed=3,
        )
        assert found['top1'] == pytest.approx(curve[epochs - 1])
        assert found['best_of_epochs'] == dict(
            top1=pytest.approx(max(curve[:epochs])), epoch=curve.index(max(curve[:epochs])) + 1
        )


def test_top5():
    logits = torch.arange(7.0, 0, -1).repeat(7, 1)  # class 0 is always first, class 6 last
    found = _accuracy(torch.nn.Identity(), CLSFeatures(logits, torch.arange(7)))
    assert found['top1'] == pytest.approx(100 / 7) and found['top5'] == pytest.approx(500 / 7)


def test_shuffled_labels_are_at_chance():
    train = images(90, spread=5)
    generator = torch.Generator().manual_seed(0)
    shuffled = [
        dict(sample, label=int(label))
        for sample, label in zip(train, torch.randint(3, (90,), generator=generator))
    ]
    found = knn_classification(
        PixelEncoder(), LabeledSet(shuffled, 3), LabeledSet(images(300, 1, 5), 3)
    )
    assert 15 < found['top1'] < 55


@pytest.mark.parametrize(
    'function, options, message',
    [
        (knn_classification, dict(k=50), 'k must be in 1..9'),
        (knn_classification, dict(temperature=0), 'temperatures must be positive'),
        (knn_classification, dict(num_classes=2), 'labels must be 0..1, got 2'),
        (knn_classification, dict(train=[]), 'must contain images'),
        (linear_classification, dict(epochs=0), 'epochs must be at least 1'),
    ],
)
def test_bad_input(function, options, message):
    given = dict(train=images(9), val=images(3))
    if function is knn_classification:
        given['k'] = 3
    with pytest.raises(ValueError, match=message):
        run_protocol(function, PixelEncoder(), **{**given, **options})
