"""Samples of known classes, made unbalanced, and similarity targets made noisy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

NUM_CLASSES = 10
DATA = ('mixture', 'digits')
NOISES = ('flip', 'additive')
# The mixture: classes differ in few directions, and most of the variance says nothing.
_SIGNAL, _NUISANCE, _NUISANCE_SPREAD, _CLASS_DISTANCE = 8, 24, 2.0, 4.5
_TRAIN = dict(mixture=1000, digits=260)
_HELD_OUT = 500
# The digits' test split is the same for every seed: no tuning run ever sees it.
_DIGITS_TEST_SEED = 12345


class Split(NamedTuple):
    """Features (N, d) and true classes (N,)."""

    features: Tensor
    labels: Tensor


class Task(NamedTuple):
    """Train is as unbalanced as asked for; validation and test are balanced and clean."""

    train: Split
    val: Split
    test: Split
    rare: list[int]  # the three classes with the fewest training samples


def class_sizes(total: int, imbalance: float, order: np.ndarray) -> np.ndarray:
    """Compute the number of training samples per class, which falls exponentially.

    Args:
        total (int): Samples in all, kept to rounding.
        imbalance (float): Largest class over smallest, >= 1; 1 makes them equal.
        order (np.ndarray): Classes from the most to the least frequent.

    Returns:
        np.ndarray: Samples of each class, at least 2.

    Raises:
        ValueError: If ``imbalance`` is below 1.
    """
    if imbalance < 1:
        raise ValueError(f'imbalance must be >= 1, got {imbalance}')
    shares = imbalance ** -np.linspace(0, 1, len(order))
    sizes = np.empty(len(order), dtype=int)
    sizes[order] = np.maximum(2, np.round(total * shares / shares.sum())).astype(int)
    return sizes


def _mixture(
    sizes: np.ndarray, random: np.random.Generator, means: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    signal = means[labels] + random.standard_normal((len(labels), _SIGNAL))
    nuisance = _NUISANCE_SPREAD * random.standard_normal((len(labels), _NUISANCE))
    return np.concatenate([signal, nuisance], axis=1) @ rotation, labels


def _draw_mixture(sizes: np.ndarray, held_out: int, random: np.random.Generator) -> list:
    means = random.standard_normal((NUM_CLASSES, _SIGNAL))
    means *= _CLASS_DISTANCE / np.linalg.norm(means, axis=1, keepdims=True)
    width = _SIGNAL + _NUISANCE
    rotation = np.linalg.qr(random.standard_normal((width, width)))[0]
    equal = np.full(NUM_CLASSES, held_out // NUM_CLASSES)
    return [_mixture(each, random, means, rotation) for each in (sizes, equal, equal)]


def _draw_digits(sizes: np.ndarray, held_out: int, random: np.random.Generator) -> list:
    features, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(
        np.arange(len(labels)),
        test_size=min(held_out, 500),
        stratify=labels,
        random_state=_DIGITS_TEST_SEED,
    )
    train: list[int] = []
    val: list[int] = []
    for label, size in enumerate(sizes):
        own = random.permutation(rest[labels[rest] == label])
        part = min(held_out // NUM_CLASSES, 30)
        val.extend(own[:part])
        train.extend(own[part : part + size])  # 95 and more are left; none is used twice
    return [(features[each], labels[each]) for each in (train, val, test)]


def make_task(
    data: str, imbalance: float, seed: int, train_size: int = 0, held_out: int = _HELD_OUT
) -> Task:
    """Draw the samples of one seed.

    Features are centered and scaled by the training split's mean and one common deviation,
    so that no direction is hidden or shown by scaling.

    Args:
        data (str): ``'mixture'``: ten Gaussians, apart in 8 directions, among 24 directions of
            nuisance, all rotated; every seed draws its own. ``'digits'``: scikit-learn's 8 x 8
            digits.
        imbalance (float): Largest training class over smallest.
        seed (int): Of all draws; classes change their frequency from seed to seed.
        train_size (int): Training samples; 0 means 1000 (mixture) or 260 (digits).
        held_out (int): Validation samples, and test samples of the mixture.

    Returns:
        Task: The three splits.

    Raises:
        ValueError: If ``data`` is unknown, or classes of the digits have not enough samples.
    """
    if data not in DATA:
        raise ValueError(f'data must be one of {DATA}, got {data!r}')
    random = np.random.default_rng(seed)
    order = random.permutation(NUM_CLASSES)
    sizes = class_sizes(train_size or _TRAIN[data], imbalance, order)
    if data == 'digits' and sizes.max() > 95:
        raise ValueError(
            'digits leave 95 training samples a class, but the largest class needs '
            f'{sizes.max()}; lower train_size (--train-size) or imbalance'
        )
    draw = _draw_mixture if data == 'mixture' else _draw_digits
    parts = draw(sizes, held_out, random)
    mean = parts[0][0].mean(axis=0)
    spread = (parts[0][0] - mean).std()
    splits = [
        Split(torch.tensor((x - mean) / spread, dtype=torch.float32), torch.tensor(y))
        for x, y in parts
    ]
    return Task(*splits, rare=order[-3:].tolist())


def noisy_targets(labels: Tensor, noise: str, level: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the similarity targets of all pairs, with errors that stay fixed during training.

    Args:
        labels (Tensor): True classes, shape (N,).
        noise (str): ``'flip'``: with probability ``level`` a sample's class is replaced by another,
            drawn uniformly; a pair's target is 1 if the resulting classes agree, else 0.
            ``'additive'``: the true 1 or 0 plus normal noise of deviation ``level``, drawn once
            for each unordered pair.
        level (float): Strength, >= 0.
        seed (int): Seed of the noise.

    Returns:
        tuple[Tensor, Tensor]: Targets (N, N), symmetric, and classes (N,): the replaced
        ones for ``'flip'``, the true ones for ``'additive'``, which leaves them alone.

    Raises:
        ValueError: If ``noise`` is unknown or the level out of range.
    """
    if noise not in NOISES:
        raise ValueError(f'noise must be one of {NOISES}, got {noise!r}')
    if level < 0 or (noise == 'flip' and level > 1):
        raise ValueError(f'level must be >= 0, and at most 1 for flips, got {level}')
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    if noise == 'flip':
        hit = torch.rand(count, generator=generator) < level
        step = torch.randint(1, NUM_CLASSES, (count,), generator=generator)
        labels = torch.where(hit, (labels + step) % NUM_CLASSES, labels)
    target = (labels[:, None] == labels[None, :]).float()
    if noise == 'additive':
        upper = torch.randn(count, count, generator=generator).triu(1)
        target = target + level * (upper + upper.T)
    return target, labels
