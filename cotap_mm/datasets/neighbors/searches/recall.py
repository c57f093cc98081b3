"""What a search costs before it starts, and what an approximate one misses."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.datasets.neighbors.options import MANY
from cotap_mm.distributed.collectives import world_size
from cotap_mm.progress import duration

from .exact import ExactSearch, FeatureParts
from .ivf import IvfSearch

_MEASURED = 1024, 8192  # rows and columns of the product that is measured
_SAMPLE = 512  # images
_LOW_RECALL = 0.95
_TIE = 1e-6  # of cosines


def announce_cost(count: int) -> None:
    """Print what an exact search of all images will cost, before their features are computed.

    Args:
        count (int): Number of images.
    """
    print_log(
        f'features of {count:,} images are computed first, then an exact search: '
        f'{count:,} x {count:,} products{_advice(count)}',
        logger='current',
        level=logging.INFO,
    )


def _advice(count: int) -> str:
    if count <= MANY:
        return ''
    return (
        '. This grows with the square of the number of images; --search ivf takes less (in a '
        "config: neighbor_search=dict(search='ivf'))"
    )


def report_cost(search: ExactSearch) -> None:
    """Print what the exact search of all rows costs, from the time of one measured block.

    Args:
        search (ExactSearch): The search, on this rank.
    """
    features = search.features
    count, width = features.num_rows, features.width
    rows, columns = (min(size, count) for size in _MEASURED)
    block = FeatureParts(features.rows(0, columns))
    k = min(search.num_neighbors, columns - 1)
    probe = ExactSearch(block, k, search.device, block=search.block)
    seconds = min(_time(probe, block.rows(0, rows)) for _ in range(2))
    seconds *= count / rows * (count / columns) / world_size()
    on_disk = sum(getattr(part, 'num_bytes', 0) for part in features)
    text = (
        f'exact search: {count:,} x {count:,} products of {width} channels '
        f'({float(count) ** 2 * width:.1e} multiplications), {on_disk / 1e9:.2g} GB of features; '
        f'about {duration(seconds)} on {world_size()} '
        f'{"processes" if world_size() > 1 else "process"}, projected from one block'
    )
    print_log(text + _advice(count), logger='current', level=logging.INFO)


def _time(search: ExactSearch, queries: Tensor) -> float:
    start = time.perf_counter()
    search.find(queries, torch.arange(len(queries)))
    return time.perf_counter() - start


def measure_recall(search: IvfSearch, is_candidate: Tensor) -> float:
    """Fraction of the exact neighbors that an approximate search finds, on a random sample.

    A neighbor that is as near as the last exact one counts as found, since copies of an image are
    interchangeable.

    Args:
        search (IvfSearch): The search.
        is_candidate (Tensor): Rows that may be neighbors, bool (N,).

    Returns:
        float: Recall at k, in [0, 1].
    """
    candidates = is_candidate.nonzero().flatten().numpy()
    size = min(_SAMPLE, len(candidates))
    sample = np.sort(np.random.default_rng(1).choice(candidates, size, replace=False))
    queries, own = search.features.take(sample), torch.from_numpy(sample)
    exact, found = search.exact.find(queries, own), search.find(queries, own)
    worst = _similarity(search.features, queries, exact).amin(dim=1, keepdim=True)
    is_near = _similarity(search.features, queries, found) >= worst - _TIE
    return float(is_near.float().mean())


def _similarity(features: FeatureParts, queries: Tensor, near: Tensor) -> Tensor:
    indices, where = near.unique(return_inverse=True)
    return torch.einsum('qc,qkc->qk', queries, features.take(indices.numpy())[where])


def report_recall(recall: float, search: IvfSearch, factory: str, nprobe: int) -> None:
    """Print the recall of a search, and warn if it is low."""
    is_low = recall < _LOW_RECALL
    print_log(
        f'ivf search ({factory}, nprobe={nprobe}): recall@{search.num_neighbors} {recall:.3f} '
        f'against the exact search of {min(_SAMPLE, search.features.num_rows)} images'
        + (
            f', below {_LOW_RECALL}: raise --nprobe (in a config: neighbor_search.nprobe), e.g. to '
            f'{4 * nprobe}, or search exactly'
            if is_low
            else ''
        ),
        logger='current',
        level=logging.WARNING if is_low else logging.INFO,
    )
