"""First-in, first-out memory of past features."""

from __future__ import annotations

import copy
from typing import Optional

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """A ring buffer of the newest rows.

    Everything is in buffers, so a checkpoint carries it. A state of another size
    (a run on another number of ranks) is taken over newest rows first. Pushing never
    waits for the device.

    Args:
        size (int): Rows it can hold, >= 1.
        shape (tuple[int, ...]): Shape of one row.
        dtype (torch.dtype): Of the rows. Defaults to float32.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    def __init__(
        self, size: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f'size must be >= 1, got {size}')
        self.size = size
        self.register_buffer('features', torch.zeros(size, *shape, dtype=dtype))
        self.register_buffer('num_filled', torch.zeros((), dtype=torch.long))
        self.register_buffer('cursor', torch.zeros((), dtype=torch.long))
        self._was_full = False

    def __len__(self) -> int:
        return int(self.num_filled)

    @property
    def is_full(self) -> bool:
        """Whether the next push drops old rows. Waits for the device until it is."""
        self._was_full = self._was_full or len(self) == self.size
        return self._was_full

    @torch.no_grad()
    def push(self, rows: Tensor, count: Optional[Tensor] = None) -> None:
        """Add rows; the first row counts as the newest.

        If a row is not finite, none is stored: the step that it comes from does not count.

        Args:
            rows (Tensor): Shape (R, *shape); only the first ``size`` rows are kept.
            count (Tensor, optional): Store only the first ``count`` rows, int64 scalar on the
                device. Defaults to all.

        Raises:
            ValueError: If a row has another shape.
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
        places = (self.cursor + stored - 1 - index) % self.size
        is_new = index < stored  # the places of others hold the newest old rows
        is_new = is_new.view(-1, *[1] * (rows.ndim - 1))
        self.features[places] = torch.where(is_new, rows, self.features[places])
        self.cursor.copy_((self.cursor + stored) % self.size)
        self.num_filled.add_(stored).clamp_(max=self.size)

    def contents(self) -> Tensor:
        """The filled rows in storage order, shape (len(self), *shape)."""
        return self.features if self.is_full else self.features[: len(self)]

    def newest_first(self) -> Tensor:
        """The filled rows, newest first (a copy)."""
        filled = len(self)
        order = (self.cursor - 1 - torch.arange(filled, device=self.features.device)) % self.size
        return self.features[order]

    def redistribute(self, parts: list[dict[str, Tensor]], rank: int, world_size: int) -> None:
        """Take a share of the queues of a run on another number of ranks.

        Args:
            parts (list[dict]): The state dict of each rank's queue.
            rank (int): Whose share this queue gets, one of ``world_size``. Newest rows go
                first, turning from rank to rank.
            world_size (int): Ranks now.
        """
        queues = [self._stored(part) for part in parts]
        rows = torch.cat([queue.newest_first() for queue in queues])
        age = torch.cat([torch.arange(len(queue)) for queue in queues]).to(rows.device)
        rows = self._shard(rows[age.argsort(stable=True)], rank, world_size)
        for buffer in (self.features, self.num_filled, self.cursor):
            buffer.zero_()
        self._was_full = False
        self.push(rows.to(self.features.device))

    def _shard(self, rows: Tensor, rank: int, world_size: int) -> Tensor:
        return rows[rank::world_size]

    def _stored(self, state: dict[str, Tensor]) -> FeatureQueue:
        """A queue of this kind, of whatever size is stored."""
        queue = copy.copy(self)
        queue._buffers = {name: torch.zeros_like(state[name]) for name in self._buffers}
        queue.size = len(state['features'])
        queue.load_state_dict(state)
        return queue

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self._was_full = False
        stored = state_dict.get(prefix + 'features')
        names = [prefix + name for name in ('features', 'num_filled', 'cursor')]
        fits = stored is not None and stored.shape[1:] == self.features.shape[1:]
        if fits and len(stored) != self.size and all(name in state_dict for name in names):
            other = FeatureQueue(len(stored), tuple(stored.shape[1:]), stored.dtype)
            other.load_state_dict({name[len(prefix) :]: state_dict[name] for name in names})
            for buffer in (self.features, self.num_filled, self.cursor):
                buffer.zero_()
            self.push(other.newest_first().to(self.features.device))
            state_dict = dict(
                state_dict, **{name: getattr(self, name[len(prefix) :]).clone() for name in names}
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
