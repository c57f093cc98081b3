"""First-in, first-out queue of past features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor, nn

from cotap_mm.rules import check_arguments, whole

_STATE = ('features', 'num_filled', 'cursor')


class FeatureQueue(nn.Module):
    """A ring buffer of the newest rows.

    All state is in buffers and so in checkpoints. From a state of another size (of a run on another
    number of ranks) the newest rows are loaded. Pushing never synchronizes host and device.

    A subclass that caches what follows from the rows renews it in :meth:`_rows_changed` and drops
    it in :meth:`_drop_caches`.

    Args:
        size (int): Capacity in rows, >= 1.
        shape (tuple[int, ...]): Shape of a row.
        dtype (torch.dtype): Data type of the rows. Defaults to float32.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    @check_arguments(size=whole(1))
    def __init__(
        self, size: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer('features', torch.zeros(size, *shape, dtype=dtype))
        self.register_buffer('num_filled', torch.zeros((), dtype=torch.long))
        self.register_buffer('cursor', torch.zeros((), dtype=torch.long))
        self._was_full = False

    def __len__(self) -> int:
        return int(self.num_filled)

    @property
    def is_full(self) -> bool:
        """Whether the next push drops old rows. Synchronizes with the device until it is True."""
        self._was_full = self._was_full or len(self) == self.size
        return self._was_full

    @torch.no_grad()
    def push(self, rows: Tensor, count: Optional[Tensor] = None) -> None:
        """Add rows, the newest first.

        If any row is not finite, no row is stored, since the step that it comes from is skipped.

        Args:
            rows (Tensor): Shape (R, *shape); only the first ``size`` rows are stored.
            count (Tensor, optional): Store only the first ``count`` rows, int64 scalar on the
                device. Defaults to None, all.

        Raises:
            ValueError: If the rows have another shape.
        """
        if rows.shape[1:] != self.features.shape[1:]:
            raise ValueError(
                f'rows must have shape (R, {tuple(self.features.shape[1:])}), got '
                f'{tuple(rows.shape)}'
            )
        rows = rows[: self.size].to(self.features.dtype)
        index = torch.arange(len(rows), device=rows.device)
        stored = len(rows) if count is None else count.clamp(max=len(rows))
        is_finite = rows.flatten(1).isfinite().all(dim=1) | (index >= stored)
        stored = is_finite.all() * stored
        slots = (self.cursor + stored - 1 - index) % self.size
        is_new = index < stored  # the slots of the other rows hold the newest old rows
        is_new = is_new.view(-1, *[1] * (rows.ndim - 1))
        self.features[slots] = torch.where(is_new, rows, self.features[slots])
        first = self.cursor.clone()
        self.cursor.copy_((self.cursor + stored) % self.size)
        self.num_filled.add_(stored).clamp_(max=self.size)
        self._rows_changed(first, len(rows))

    def contents(self) -> Tensor:
        """Return the filled rows in storage order, shape (len(self), *shape)."""
        return self.features if self.is_full else self.features[: len(self)]

    def newest_first(self) -> Tensor:
        """Return a copy of the filled rows, newest first, shape (len(self), *shape)."""
        return _newest_first(self._buffers)

    def redistribute(self, parts: list[dict[str, Tensor]], rank: int, world_size: int) -> None:
        """Fill this queue from the queues of a run on another number of ranks.

        Args:
            parts (list[dict[str, Tensor]]): State dict of the queue of each rank of that run.
            rank (int): Rank of this queue. Rows are dealt out to the ranks in turn, newest first.
            world_size (int): Current number of ranks.
        """
        queues = [_newest_first(self._upgrade(part)) for part in parts]
        rows = torch.cat(queues)
        age = torch.cat([torch.arange(len(queue)) for queue in queues]).to(rows.device)
        self._refill(self._shard(rows[age.argsort(stable=True)], rank, world_size))

    def _shard(self, rows: Tensor, rank: int, world_size: int) -> Tensor:
        return rows[rank::world_size]

    def _refill(self, rows: Tensor) -> None:
        """Replace the content by rows, newest first."""
        for name in _STATE:
            getattr(self, name).zero_()
        self._was_full = False
        self._drop_caches()
        self.push(rows.to(self.features.device))

    def _rows_changed(self, first: Tensor, count: int) -> None:
        """Renew what is cached of at most ``count`` slots from slot ``first`` on, around the end.

        Args:
            first (Tensor): int64 scalar on the device.
            count (int): At most ``size``.
        """

    def _drop_caches(self) -> None:
        """Forget what is cached of the rows, since all of them have changed or moved."""

    def _apply(self, *args: Any, **kwargs: Any) -> FeatureQueue:
        self._drop_caches()
        return super()._apply(*args, **kwargs)

    def _upgrade(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert a stored state to what this queue would store, except for its size."""
        return state

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self._was_full = False
        state = self._upgrade(
            {
                name: state_dict[prefix + name]
                for name in self._buffers
                if prefix + name in state_dict
            }
        )
        if all(name in state for name in _STATE):
            rows = state['features']
            if len(rows) != self.size and rows.shape[1:] == self.features.shape[1:]:
                self._refill(_newest_first(state))
                state = {**state, **{name: getattr(self, name).clone() for name in _STATE}}
        state_dict = {**state_dict, **{prefix + name: value for name, value in state.items()}}
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._drop_caches()


def _newest_first(state: Mapping[str, Tensor]) -> Tensor:
    """Read the filled rows of a stored queue of any size, newest first (a copy)."""
    rows, filled = state['features'], int(state['num_filled'])
    order = (state['cursor'] - 1 - torch.arange(filled, device=rows.device)) % len(rows)
    return rows[order]
