"""Limit a data set to a number of samples."""

from __future__ import annotations

from typing import Any

from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.rules import check_arguments, whole


class Subset:
    """At most ``limit`` evenly spaced samples of a data set.

    Args:
        dataset: Any data set with a length.
        limit (int): Largest number of samples.

    Raises:
        ValueError: If ``limit`` is not positive.
    """

    @check_arguments(limit=whole(1))
    def __init__(self, dataset: Any, limit: int) -> None:
        self.dataset, self.indices = dataset, evenly_spaced(len(dataset), limit)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        """Sample of the full data set."""
        return self.dataset[self.indices[index]]

    def label_file(self, index: int) -> str:
        """Path of a mask, '' if the full data set does not provide paths."""
        find = getattr(self.dataset, 'label_file', None)
        return find(self.indices[index]) if find else ''
