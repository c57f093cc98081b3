"""The order of samples, and what their random draws follow from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized
from typing import NamedTuple, Optional

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from cotap_mm.registry import DATA_SAMPLERS


class Visit(NamedTuple):
    """A sample, and what its random draws follow from.

    Attributes:
        index (int): Which sample of the data set.
        count (int): How often all samples have been visited before.
        seed (int): The run's seed.
    """

    index: int
    count: int
    seed: int


@DATA_SAMPLERS.register_module()
class VisitSampler(Sampler):
    """All samples in a new random order, again and again, shared out among the ranks.

    It never ends: MMEngine's iteration loop drains the workers and sleeps two seconds
    whenever a sampler does, which a small folder would feel. It yields a
    :class:`Visit` instead of an index, so that a data set's draws depend neither on
    the number of workers nor on what was drawn before, and a resumed run sees the
    same crops.

    Args:
        dataset (Sized): The data set.
        seed (int, optional): MMEngine passes the run's seed. Defaults to one drawn
            and shared among the ranks.

    Attributes:
        start (int): Samples, of all ranks together, to leave out at first; they were seen
            before a run was interrupted.
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
            generator = torch.Generator().manual_seed(self.seed + count)
            order = torch.randperm(len(self.dataset), generator=generator)
            for index in order[skip:].tolist():
                yield Visit(index, count, self.seed)
            skip = 0

    def __len__(self) -> int:
        """Samples of this rank in one round."""
        return -(-len(self.dataset) // self.world_size)
