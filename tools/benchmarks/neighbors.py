"""The search for neighbors of images among global features, and what it means for more of them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import math
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.datasets import search_neighbors

from . import measuring

K = 7


def _ours(features: Tensor, device: str) -> Tensor:
    return search_neighbors(features, K, device)


def _faiss(features: Tensor, device: str) -> Tensor:
    return search_neighbors(features, K, 'cpu', use_faiss=True)


def _at_once(features: Tensor, device: str) -> Tensor:
    features = features.to(device)
    return (features @ features.T).fill_diagonal_(-2).topk(K, dim=1).indices.cpu()


SEARCHES = {'ours': _ours, 'faiss, flat': _faiss, 'whole matrix': _at_once}


def make(name: str, count: int, width: int, device: str) -> Callable[[], Tensor]:
    """A search among random unit features, which are compared as real ones are."""
    features = F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(0)))

    def work() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            return SEARCHES[name](features, device)

    return work


def keep(name: str, work: Callable[[], Tensor], found: dict[str, Tensor]) -> Callable[[], None]:
    """The work, with its result kept in ``found``."""

    def kept() -> None:
        found[name] = work()

    return kept


def run(args: argparse.Namespace) -> None:
    has_faiss = importlib.util.find_spec('faiss') is not None
    rows, seconds = [], {}
    for count in sorted(args.images):
        names = [
            name
            for name in SEARCHES
            if (name != 'faiss, flat' or has_faiss)
            and (name != 'whole matrix' or count <= args.at_once_up_to)
        ]
        works = {name: make(name, count, args.width, args.device) for name in names}
        found: dict[str, Tensor] = {}
        kept = {name: keep(name, work, found) for name, work in works.items()}
        times = measuring.take_turns(kept, args.runs, 0, args.device)
        same = (found['ours'] == found[names[-1]]).float().mean()
        seconds[count] = times['ours'].median
        for name in names:
            extra = measuring.extra_memory(
                make, name, count, args.width, args.device, device=args.device
            )
            rows.append(
                {
                    'images': count,
                    'search': name,
                    'seconds': round(times[name].median, 2),
                    'spread': f'{times[name].spread:.0%}',
                    'extra MB': round(extra / measuring.MB),
                    'time relative to ours': round(times[name].median / seconds[count], 2),
                    'same neighbours': f'{same:.2%}' if name == names[-1] else '-',
                }
            )
    largest, smallest = max(seconds), min(seconds)
    projected = seconds[largest] * (args.target / largest) ** 2
    settings = dict(
        k=K,
        width=args.width,
        dtype='float32',
        runs=args.runs,
        projected_images=args.target,
        projected_seconds_of_one=round(projected),
        projected_seconds_of_each_rank=round(projected / args.ranks),
        ranks=args.ranks,
    )
    if largest > smallest:
        settings['growth_exponent'] = round(
            math.log(seconds[largest] / seconds[smallest]) / math.log(largest / smallest), 2
        )
    title = f'{K} nearest images; {args.target} are projected from {largest} by the square'
    measuring.report(title, rows, args.device, args.json, **settings)
