"""Rows that are collected in one tensor, without a second copy of them."""

from __future__ import annotations

from typing import Optional, Union

import torch
from torch import Tensor


class GrowingRows:
    """A tensor to which rows are appended.

    Its space is reserved once, for the expected number of rows. On a CPU, space that is not used
    needs no memory. If there are more rows, the space grows by half, which copies them.

    Args:
        expected (int): Expected number of rows, >= 0.
        device (str | torch.device, optional): Device of the rows. Defaults to None, that of the
            first ones.
    """

    def __init__(self, expected: int, device: Union[str, torch.device, None] = None) -> None:
        self._expected = expected
        self._device = device
        self._space: Optional[Tensor] = None
        self._count = 0

    def append(self, rows: Tensor) -> None:
        """Copy rows (n, ...) to the end; all have the same shape and type."""
        end = self._count + len(rows)
        if self._space is None:
            size = max(self._expected, end)
            self._space = rows.new_empty(size, *rows.shape[1:], device=self._device)
        elif end > len(self._space):
            larger = max(end, len(self._space) + len(self._space) // 2)
            space = self._space.new_empty(larger, *rows.shape[1:])
            space[: self._count] = self._space[: self._count]
            self._space = space
        self._space[self._count : end] = rows
        self._count = end

    def rows(self) -> Tensor:
        """Return all rows, a view of shape (N, ...).

        Raises:
            ValueError: If nothing was appended, so that the shape is unknown.
        """
        if self._space is None:
            raise ValueError('rows() needs at least one append(), also of 0 rows; got none')
        return self._space[: self._count]
