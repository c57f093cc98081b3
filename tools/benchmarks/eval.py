"""Dense retrieval's search, in blocks, against one matrix of all similarities."""

from __future__ import annotations

import argparse
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.ops.nearest import nearest

from . import measuring

K = 30


def in_blocks(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return nearest(queries, memory, K)


def at_once(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return tuple((queries @ memory.T).topk(K, dim=1))


SEARCHES = dict(at_once=at_once, in_blocks=in_blocks)


def make(name: str, queries: int, memory: int, width: int, device: str) -> Callable[[], Tensor]:
    """A search among random unit features; returns the indices that it finds."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        F.normalize(torch.randn(count, width, generator=generator)).to(device)
        for count in (queries, memory)
    ]
    return lambda: SEARCHES[name](*rows)[1]


def run(args: argparse.Namespace) -> None:
    rows = []
    for memory in args.memory:
        sizes = (args.queries, memory, args.width, args.device)
        works = {name: make(name, *sizes) for name in SEARCHES}
        found = {name: work() for name, work in works.items()}
        times = measuring.take_turns(works, args.runs, 1, args.device)
        extra = {
            name: measuring.extra_memory(make, name, *sizes, device=args.device)
            for name in SEARCHES
        }
        for name in SEARCHES:
            rows.append(
                {
                    'memory': memory,
                    'search': name.replace('_', ' '),
                    'seconds': round(times[name].median, 3),
                    'spread': f'{times[name].spread:.0%}',
                    'extra MB': round(extra[name] / measuring.MB, 1),
                    'times faster': round(times['at_once'].median / times[name].median, 2),
                    'same neighbours': f'{(found[name] == found["at_once"]).float().mean():.2%}',
                }
            )
    measuring.report(
        f'{K} nearest patches',
        rows,
        args.device,
        args.json,
        queries=args.queries,
        width=args.width,
        dtype='float32',
        runs=args.runs,
    )
