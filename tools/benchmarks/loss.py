"""The ranking loss in its exact forms against the plain one that compares all pairs."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from cotap_mm.ops import continuous_average_precision

from . import measuring

_EPS = 1e-5


def plain(
    pred: Tensor,
    target: Tensor,
    tau: float = 0.5,
    threshold: float = -0.2,
    factor: float | Tensor = 1.0,
) -> Tensor:
    """The formulas as they are written, for autograd to derive."""
    lead = (pred[:, None] - pred[None, :]) / tau
    penalty = torch.where(
        lead >= 1, torch.zeros_like(lead), torch.where(lead >= 0, (1 - lead) ** 2, 1 - 2 * lead)
    )
    gap = torch.relu(target[:, None] - target[None, :])
    wrong = (gap * penalty).sum(dim=1)
    right = ((target[None, :] >= target[:, None]) * (pred[None, :] >= pred[:, None])).float().sum(1)
    ratio = wrong / (right + _EPS)
    weight = torch.relu(target - threshold) * factor
    return (weight * ratio / (1 + ratio)).sum() / (weight.sum() + _EPS)


def make(method: str, count: int, device: str) -> Callable[[], Tensor]:
    """Forward and backward of one list; returns the gradient."""
    generator = torch.Generator().manual_seed(count)
    pred, target = (
        torch.rand(count, generator=generator).mul(2).sub(1).to(device) for _ in range(2)
    )

    def work() -> Tensor:
        leaf = pred.clone().requires_grad_()
        loss = (
            plain(leaf, target)
            if method == 'plain'
            else continuous_average_precision(leaf, target, method=method)
        )
        loss.backward()
        assert leaf.grad is not None
        return leaf.grad

    return work


def make_warm(method: str, count: int, device: str) -> Callable[[], Tensor]:
    """The same, after a short list has loaded and allocated what every first call does."""
    make(method, 64, device)()
    return make(method, count, device)


def exponent(times: dict[int, float], low: int, high: int) -> float:
    """How time grows between two lengths: 1 is linear, 2 quadratic."""
    return math.log(times[high] / times[low]) / math.log(high / low)


def run(args: argparse.Namespace) -> None:
    rows: list[dict] = []
    medians: dict[str, dict[int, float]] = {}
    memories: dict[str, dict[int, int]] = {}
    for count in args.pairs:
        methods = [
            each
            for each in ['plain', *args.methods]
            if count
            <= dict(plain=args.longest_plain, sorted=math.inf).get(each, args.longest_pairs)
        ]
        works = {each: make(each, count, args.device) for each in methods}
        grads = {each: work() for each, work in works.items()}
        times = measuring.take_turns(works, args.runs, 1, args.device)
        for method in methods:
            memory = measuring.extra_memory(
                make_warm, method, count, args.device, device=args.device
            )
            medians.setdefault(method, {})[count] = times[method].median
            memories.setdefault(method, {})[count] = memory
            row = {
                'pairs': count,
                'form': method,
                'ms': round(1e3 * times[method].median, 2),
                'spread': f'{times[method].spread:.0%}',
                'extra MB': round(memory / measuring.MB, 1),
            }
            if 'plain' in methods:
                row['times faster'] = round(times['plain'].median / times[method].median, 1)
                row['times less memory'] = round(memories['plain'][count] / max(memory, 4096), 1)
                gap = (grads[method] - grads['plain']).abs().max() / grads['plain'].abs().max()
                row['gradient, largest relative difference'] = f'{float(gap):.0e}'
            rows.append(row)
    settings: dict[str, object] = dict(dtype='float32', runs=args.runs)
    times_sorted = medians.get('sorted', {})
    if {50_000, 400_000} <= set(times_sorted):
        settings['growth exponent 50k to 400k'] = round(exponent(times_sorted, 50_000, 400_000), 2)
    measuring.report('Ranking loss, forward and backward', rows, args.device, args.json, **settings)
    if args.plot:
        plot(Path(args.plot), medians, memories)


def plot(
    path: Path, medians: dict[str, dict[int, float]], memories: dict[str, dict[int, int]]
) -> None:
    """Growth of time and memory on logarithmic axes."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for axis, title, curves in (
        (axes[0], 'seconds', medians),
        (
            axes[1],
            'extra MB',
            {
                name: {count: max(value, 4096) / measuring.MB for count, value in each.items()}
                for name, each in memories.items()
            },
        ),
    ):
        for marker, (name, curve) in zip('os^D', curves.items()):
            axis.plot(list(curve), list(curve.values()), marker=marker, label=name)
        axis.set(xscale='log', yscale='log', xlabel='pairs in the list', ylabel=title)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle('Ranking loss, forward and backward')
    figure.savefig(path, dpi=110)
    plt.close(figure)
