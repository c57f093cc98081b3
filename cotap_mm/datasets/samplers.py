"""Order of the samples, and the seeds of their random draws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized
from typing import NamedTuple, Optional

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from cotap_mm.registry import DATA_SAMPLERS

_BLOCK = 4096  # indices that are turned into numbers of Python at a time
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

    Attributes:
        start (int): Number of samples, over all ranks, to skip at the start; an interrupted run
            has already used them.

    Raises:
        ValueError: If the data set is empty.
    """

    def __init__(self, dataset: Sized, seed: Optional[int] = None) -> None:
        if len(dataset) < 1:
            raise ValueError('the data set is empty')
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0

    def __iter__(self) -> Iterator[Visit]:
        return itertools.islice(self._all_ranks(), self.rank, None, self.world_size)

    def _all_ranks(self) -> Iterator[Visit]:
        first, skip = divmod(self.start, len(self.dataset))
        for count in itertools.count(first):
            for index in self._order(count, skip):
                yield Visit(index, count, self.seed)
            skip = 0

    def _order(self, count: int, skip: int) -> Iterator[int]:
        """Iterate over the images of a pass; holds 4 bytes per image up to 2^31 of them."""
        size = len(self.dataset)
        generator = torch.Generator().manual_seed(self.seed + count)
        dtype = torch.int32 if size <= _INT32 else torch.int64  # the order is the same
        order = torch.randperm(size, generator=generator, dtype=dtype)
        for block in order[skip:].split(_BLOCK):
            yield from block.tolist()

    def __len__(self) -> int:
        """Number of samples of this rank per pass."""
        return -(-len(self.dataset) // self.world_size)
