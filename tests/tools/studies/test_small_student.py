"""The student of the noise study: same initial weights for all objectives, learning, metric."""

from __future__ import annotations

import pytest
import small_student
import torch
import torch.nn.functional as F
from noisy_targets import Split
from sklearn.metrics import average_precision_score
from small_student import SETTINGS, Objective, fit, retrieval_precision, without_diagonal

from cotap_mm.models.losses import PatchRankingLoss

JOB = dict(seed=0, steps=40, batch=16, lr=1e-2)


@pytest.fixture
def easy():
    """Three classes on the axes of a 4-dimensional space, little noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(20)
    features = F.one_hot(labels, 4).float() + 0.4 * torch.randn(60, 4, generator=generator)
    return Split(features, labels), (labels[:, None] == labels).float()


def test_diagonal():
    matrix = torch.arange(9).view(3, 3)
    assert without_diagonal(matrix).tolist() == [[1, 2], [3, 5], [6, 7]]


def test_retrieval_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(30, 3, generator=generator).round()  # many equal scores
    embedding[(embedding == 0).all(dim=1)] = 1.0
    embedding = F.normalize(embedding, dim=1)
    labels = torch.arange(30) % 4
    scores = without_diagonal(embedding @ embedding.T)
    relevant = without_diagonal(labels[:, None] == labels)
    assert any(len(row.unique()) < 20 for row in scores)
    slow = [average_precision_score(r, s) for r, s in zip(relevant.numpy(), scores.numpy())]
    assert retrieval_precision(embedding, labels).tolist() == pytest.approx(slow, abs=1e-6)


def test_retrieval_by_hand():
    """Query 0 retrieves another class, its own, another class: precision 1/2."""
    angles = torch.tensor([0.0, 0.2, 0.1, 0.5])
    embedding = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert retrieval_precision(embedding, torch.tensor([0, 0, 1, 1]))[0].item() == 0.5


@pytest.mark.parametrize('name', SETTINGS)
def test_every_objective_learns(easy, name):
    train, target = easy
    job = dict(JOB, objective=name, setting=SETTINGS[name][-1])
    before = fit(dict(job, steps=0), train, target, train.labels)
    after = fit(job, train, target, train.labels)
    start, end = (
        retrieval_precision(student(train.features), train.labels).mean()
        for student in (before, after)
    )
    assert end > start + 0.05


def test_all_objectives_start_alike(easy):
    train, target = easy
    weights = [
        fit(
            dict(JOB, steps=0, objective=name, setting=SETTINGS[name][0]),
            train,
            target,
            train.labels,
        ).state_dict()
        for name in ('CoTAP', 'cross-entropy', 'ListMLE')
    ]
    for other in weights[1:]:
        assert all(torch.equal(value, other[key]) for key, value in weights[0].items())


def test_cotap_ranks_every_pair_once(easy):
    train, target = easy
    embedding = F.normalize(train.features[:5], dim=1)
    one, two = zip(*[(i, j) for i in range(5) for j in range(i + 1, 5)])
    pred = torch.stack([embedding[i] @ embedding[j] for i, j in zip(one, two)])
    wanted = PatchRankingLoss(tau=0.2)(pred, target[one, two], torch.ones(10))
    found = Objective('CoTAP', 0.2)(embedding, target[:5, :5], train.labels[:5])
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_train_and_measure():
    job = dict(
        data='mixture',
        imbalance=5.0,
        noise='flip',
        level=0.0,
        objective='MSE',
        setting=None,
        lr=1e-2,
        seed=0,
        steps=60,
        batch=24,
        device='cpu',
        train_size=300,
        held_out=100,
        split='test',
    )
    clean, flipped = (small_student.train_and_measure(dict(job, level=level)) for level in (0, 0.9))
    assert clean == small_student.train_and_measure(job)
    assert clean['precision'] > flipped['precision'] + 5
    raw = small_student.raw_precision('mixture', 5.0, 0, train_size=300, held_out=100)
    assert 10 < raw < clean['precision']


def test_unknown_objective():
    with pytest.raises(ValueError, match="one of .*'CoTAP'.*got 'hinge'"):
        Objective('hinge', 0.1)
