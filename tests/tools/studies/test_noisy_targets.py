"""Data and noise of the noise study match their description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noisy_targets import class_sizes, make_task, noisy_targets


def test_class_sizes():
    order = np.array([2, 0, 1])
    assert class_sizes(30, 1, order).tolist() == [10, 10, 10]
    assert class_sizes(111, 100, order).tolist() == [10, 2, 100]  # the rarest keeps a pair
    with pytest.raises(ValueError, match='imbalance must be >= 1, got 0.5'):
        class_sizes(30, 0.5, order)


@pytest.mark.parametrize('data', ['mixture', 'digits'])
def test_splits(data):
    task = make_task(data, 50, 3)
    counts = task.train.labels.bincount(minlength=10)
    assert 30 <= counts.max() / counts.min() <= 60
    assert set(task.rare) == set(counts.argsort()[:3].tolist())
    for held_out in (task.val, task.test):
        even = held_out.labels.bincount(minlength=10)
        assert even.min() >= 0.9 * even.max()
    rows = torch.cat([split.features for split in task[:3]])
    assert len(rows.unique(dim=0)) == len(rows)  # no sample in two splits
    assert task.train.features.std() == pytest.approx(1, abs=1e-3)


def test_seeds():
    first, again, other = (make_task('digits', 1, seed, 100, 100) for seed in (0, 0, 1))
    assert torch.equal(first.train.features, again.train.features)
    assert not torch.equal(first.train.features, other.train.features)
    # The digits' test samples do not depend on the seed.
    assert torch.equal(first.test.labels, other.test.labels)


def test_flips():
    labels = torch.arange(10).repeat(200)
    target, noisy = noisy_targets(labels, 'flip', 0.4, 0)
    assert (noisy != labels).float().mean().item() == pytest.approx(0.4, abs=0.04)
    moved = noisy[labels == 3].bincount(minlength=10)
    assert (moved > 0).all() and moved[3] == moved.max()
    assert torch.equal(target, (noisy[:, None] == noisy).float())
    assert torch.equal(noisy_targets(labels, 'flip', 0.0, 0)[1], labels)


def test_additive():
    labels = torch.arange(10).repeat(20)
    target, same = noisy_targets(labels, 'additive', 0.5, 0)
    assert torch.equal(same, labels) and torch.equal(target, target.T)
    noise = target - (labels[:, None] == labels).float()
    off = ~torch.eye(200, dtype=torch.bool)
    assert noise[off].std().item() == pytest.approx(0.5, rel=0.03)
    assert noise[off].mean().item() == pytest.approx(0, abs=0.02)
    assert torch.equal(target, noisy_targets(labels, 'additive', 0.5, 0)[0])


def test_bad_input():
    with pytest.raises(ValueError, match="data must be one of .*got 'faces'"):
        make_task('faces', 1, 0)
    with pytest.raises(ValueError, match='lower train_size'):
        make_task('digits', 50, 0, train_size=2000)
    with pytest.raises(ValueError, match="noise must be one of .*got 'salt'"):
        noisy_targets(torch.zeros(3).long(), 'salt', 0.1, 0)
    with pytest.raises(ValueError, match='at most 1 for flips, got 1.5'):
        noisy_targets(torch.zeros(3).long(), 'flip', 1.5, 0)
