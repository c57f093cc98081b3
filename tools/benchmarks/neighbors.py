"""The search for neighbors of images among global features, and what it means for more of them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import math
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.datasets import search_neighbors
from cotap_mm.datasets.neighbors.searches.exact import FeatureParts
from cotap_mm.datasets.neighbors.searches.ivf import IvfIndexBuild, IvfSearch
from cotap_mm.distributed.file_barrier import SharedBuild

from . import measuring

K = 7
_DIMENSIONS = 16  # in which the features vary: networks use few of their channels
_PER_CLUSTER = 200  # images


def _ours(features: Tensor, device: str) -> Tensor:
    return search_neighbors(features, K, device)


def _faiss(features: Tensor, device: str) -> Tensor:
    return search_neighbors(features, K, 'cpu', use_faiss=True)


def _at_once(features: Tensor, device: str) -> Tensor:
    features = features.to(device)
    return (features @ features.T).fill_diagonal_(-2).topk(K, dim=1).indices.cpu()


def _ivf(features: Tensor, device: str) -> Tensor:
    parts, everything = FeatureParts(features), torch.ones(len(features), dtype=torch.bool)
    with tempfile.TemporaryDirectory() as folder:
        build = IvfIndexBuild(SharedBuild(Path(folder) / 'n.npy', ''), parts, everything, '')
        return IvfSearch(build.run(), parts, K, everything, device)(range(len(features)))


EXACT = 'ours'
SEARCHES = {EXACT: _ours, 'faiss, flat': _faiss, 'whole matrix': _at_once, 'ivf': _ivf}


def make_features(count: int, width: int) -> Tensor:
    """Unit features in clusters, shape (count, width)."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(max(count // _PER_CLUSTER, 1), _DIMENSIONS, generator=generator)
    cluster = torch.randint(len(centers), (count,), generator=generator)
    points = centers[cluster] + 0.7 * torch.randn(count, _DIMENSIONS, generator=generator)
    mixed = points @ torch.randn(_DIMENSIONS, width, generator=generator)
    return F.normalize((0.5 * mixed).tanh_(), dim=1)


def make(name: str, count: int, width: int, device: str) -> Callable[[], Tensor]:
    """A search among features."""
    features = make_features(count, width)

    def work() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            return SEARCHES[name](features, device)

    return work


class Kept:
    """The work of one search, which keeps its last result and its shortest CPU time."""

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self.work, self.seconds = work, math.inf

    def __call__(self) -> None:
        """Search once."""
        start = time.process_time()
        self.found = self.work()
        self.seconds = min(self.seconds, time.process_time() - start)


def overlap(found: Tensor, exact: Tensor) -> float:
    """Fraction of the exact neighbors that were found."""
    shift = torch.arange(len(exact))[:, None] * len(exact)
    return float(torch.isin(found + shift, exact + shift).float().mean())


def growth(seconds: dict[int, float]) -> dict[str, float]:
    """Exponent of the number of images in the CPU time, by least squares of the logarithms."""
    if len(seconds) < 2:
        return {}
    x, y = (torch.tensor(list(values)).double().log() for values in (seconds, seconds.values()))
    x, y = x - x.mean(), y - y.mean()
    return dict(growth_exponent=round(float((x * y).sum() / (x * x).sum()), 2))


def run(args: argparse.Namespace) -> None:
    has_faiss = importlib.util.find_spec('faiss') is not None
    rows: list[dict[str, Any]] = []
    seconds: dict[str, dict[int, float]] = {name: {} for name in SEARCHES}
    for count in sorted(args.images):
        names = [
            name
            for name in SEARCHES
            if (name not in ('faiss, flat', 'ivf') or has_faiss)
            and (name != 'whole matrix' or count <= args.at_once_up_to)
        ]
        works = {name: Kept(make(name, count, args.width, args.device)) for name in names}
        times = measuring.take_turns(dict(works), args.runs, 0, args.device)
        exact = works[EXACT]
        for name in names:
            extra = measuring.extra_memory(
                make, name, count, args.width, args.device, device=args.device
            )
            seconds[name][count] = works[name].seconds
            rows.append(
                {
                    'images': count,
                    'search': name,
                    'CPU seconds': round(works[name].seconds, 2),
                    'spread': f'{times[name].spread:.0%}',
                    'extra MB': round(extra / measuring.MB),
                    'time relative to ours': round(works[name].seconds / exact.seconds, 2),
                    'same neighbors': f'{overlap(works[name].found, exact.found):.2%}',
                }
            )
    largest = max(args.images)
    projected = seconds[EXACT][largest] * (args.target / largest) ** 2
    settings = dict(
        k=K,
        width=args.width,
        dtype='float32',
        runs=args.runs,
        projected_images=args.target,
        projected_seconds_of_one=round(projected),
        projected_seconds_of_each_rank=round(projected / args.ranks),
        ranks=args.ranks,
        **growth(seconds[EXACT]),
        **{f'ivf_{key}': value for key, value in growth(seconds['ivf']).items()},
    )
    title = f'{K} nearest images; {args.target} are projected from {largest} by the square'
    measuring.report(title, rows, args.device, args.json, **settings)
