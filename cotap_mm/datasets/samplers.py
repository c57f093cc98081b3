"""Order of the samples, and the seeds of their random draws."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sized
from typing import NamedTuple, Optional

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from torch.utils.data import Sampler

from cotap_mm.registry import DATA_SAMPLERS
from cotap_mm.rules import check_arguments, or_one_of, whole

from .permutation import FeistelPermutation

RANDPERM, FEISTEL, _AUTO = 'randperm', 'feistel', 'auto'
_MOST_STORED = 10_000_000  # images whose order 'auto' stores
_BLOCK = 1 << 14  # indices that are turned into numbers of Python at a time
_INT32 = 2**31 - 1


class Visit(NamedTuple):
    """Index of a sample, and the values that seed its random draws.

    Attributes:
        index (int): Index of the sample in the data set.
        count (int): Number of completed passes over the data set.
        seed (int): Seed of the run.
    """

    index: int
    count: int
    seed: int


@DATA_SAMPLERS.register_module()
class VisitSampler(Sampler):
    """Infinite sampler that shuffles in every pass and shards the samples across ranks.

    It is infinite because MMEngine's iteration loop drains the workers and sleeps for two seconds
    whenever a sampler is exhausted, which would slow down training on a small folder. It yields a
    :class:`Visit` instead of an index, so that a data set's random draws depend neither on the
    number of workers nor on earlier draws, and a resumed run sees the same crops.

    Args:
        dataset (Sized): The data set.
        seed (int, optional): Seed of the run; MMEngine passes it. Defaults to a random one that
            all ranks share.
        order (str): How a pass is shuffled. ``'randperm'`` stores the order of PyTorch's
            ``randperm``, 4 bytes per image, and computes all of it at the start of a pass;
            ``'feistel'`` computes it in blocks (:class:`.FeistelPermutation`), without memory or
            a pause. Defaults to ``'auto'``: ``'randperm'`` for at most 10,000,000 images,
            ``'feistel'`` for more, and what it started with for a resumed run.

    Attributes:
        order (str): ``'randperm'`` or ``'feistel'``.
        start (int): Number of samples, over all ranks, to skip at the start; an interrupted run
            has already used them.

    Raises:
        ValueError: If the data set is empty, the order is unknown, or the seed is negative.
    """

    @check_arguments(seed=or_one_of(whole(0), None))
    def __init__(self, dataset: Sized, seed: Optional[int] = None, order: str = _AUTO) -> None:
        if len(dataset) < 1:
            raise ValueError('the data set is empty')
        if order not in (_AUTO, RANDPERM, FEISTEL):
            raise ValueError(f'order must be {_AUTO!r}, {RANDPERM!r} or {FEISTEL!r}, got {order!r}')
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0
        self._is_chosen = order != _AUTO
        if not self._is_chosen:
            order = RANDPERM if len(dataset) <= _MOST_STORED else FEISTEL
        self.order = order

    def continue_order(self, order: str) -> None:
        """Use the order that a run started with, unless the option sets another one.

        Args:
            order (str): ``'randperm'`` or ``'feistel'``, as saved in the checkpoint.
        """
        if order == self.order or order not in (RANDPERM, FEISTEL):
            return
        if self._is_chosen:
            print_log(
                f'this run started with order={order!r} and continues with order={self.order!r}, '
                'so some images of this pass are seen twice and others not at all; remove '
                'train_dataloader.sampler.order to continue as it started',
                logger='current',
                level=logging.WARNING,
            )
        else:
            print_log(f'the images keep the order of this run, {order!r}', logger='current')
            self.order = order

    def __iter__(self) -> Iterator[Visit]:
        size, position = len(self.dataset), self.start + self.rank
        while True:
            count, first = divmod(position, size)
            own = range(first, size, self.world_size)
            for index in self._order(count, own):
                yield Visit(index, count, self.seed)
            position += self.world_size * len(own)

    def _order(self, count: int, positions: range) -> Iterator[int]:
        """Iterate over the images at some positions of a pass."""
        size = len(self.dataset)
        if self.order == FEISTEL:
            shuffled = FeistelPermutation(size, (self.seed % 2**64, count))
            for start in range(0, len(positions), _BLOCK):
                block = positions[start : start + _BLOCK]
                yield from shuffled[np.arange(block.start, block.stop, block.step)].tolist()
            return
        generator = torch.Generator().manual_seed(self.seed + count)
        dtype = torch.int32 if size <= _INT32 else torch.int64  # the order is the same
        order = torch.randperm(size, generator=generator, dtype=dtype)
        for block in order[positions.start :: positions.step].split(_BLOCK):
            yield from block.tolist()

    def __len__(self) -> int:
        """Number of samples of this rank per pass."""
        return -(-len(self.dataset) // self.world_size)
