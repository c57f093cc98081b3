"""Queue of past teacher scores, which keeps the cluster assignment balanced."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import world_size
from cotap_mm.ops import at_least_float32, balance
from cotap_mm.rules import check_arguments, number, one_of, whole

from .feature_queue import FeatureQueue

_DTYPES = ('float32', 'bfloat16')
_BLOCK = 128  # rows with a sum of their own
_AT_A_TIME = 2**22  # values that are summed at a time


class AssignmentQueue(FeatureQueue):
    """Past teacher scores and the Sinkhorn assignment over them.

    A row holds ``exp((score - 1) / temperature)``, the input of the assignment, which is in (0, 1]
    since scores are cosines. So a step computes the exponential for new rows only and never
    allocates a tensor as large as the queue. Rows that are not filled yet are 0.

    The sum of all rows, with which the assignment starts, is kept up to date. It is not a running
    sum, which would drift: the rows have sums of 128 each, and a push computes those that it
    touches again. They are not saved, but computed from the rows when needed.

    Args:
        size (int): Number of rows over **all ranks**; each rank holds an equal part.
        num_clusters (int): K, width of a row.
        temperature (float): Sinkhorn temperature, > 0.
        per_step (int): Maximum number of rows that a rank adds per step.
        num_iters (int): Sinkhorn iterations. Defaults to 3.
        dtype (str): Type of the stored rows: ``'float32'`` or ``'bfloat16'``, which halves memory
            and checkpoint and rounds each value by up to 0.4 %. The assignment is computed in
            float32. Defaults to ``'float32'``.

    Raises:
        ValueError: If an argument is out of range, there are fewer rows than ranks, or ``dtype``
            does not suit the temperature.
    """

    @check_arguments(
        size=whole(1),
        num_clusters=whole(1),
        temperature=number(0, above=True),
        per_step=whole(1),
        num_iters=whole(1),
        dtype=one_of(*_DTYPES),
    )
    def __init__(
        self,
        size: int,
        num_clusters: int,
        temperature: float,
        per_step: int,
        num_iters: int = 3,
        dtype: str = 'float32',
    ) -> None:
        if size < world_size():
            raise ValueError(
                f'size must be at least the number of ranks, {world_size()}, got {size}'
            )
        stored = _row_dtype(dtype, temperature)
        super().__init__(size // world_size(), (num_clusters,), stored)
        self._sums: Optional[Tensor] = None
        self.temperature = temperature
        self.per_step = per_step
        self.num_iters = num_iters
        # Stored in the checkpoint, so that a run can be resumed with another temperature.
        self.register_buffer('row_temperature', torch.tensor(float(temperature)))

    @torch.no_grad()
    def assign(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Assign current scores to clusters, balanced over queue and batch together.

        Args:
            scores (Tensor): Teacher scores, cosines, shape (N, K).

        Returns:
            tuple[Tensor, Tensor]: Assignment (N, K), float32 (float64 for float64 scores), and 1
            if the queue is not empty, else 0 (a float scalar). With an empty queue the batch is
            too small to balance, and the method skips the losses that use the assignment.
        """
        # Rows that are not filled yet are ignored; on a CPU, counting them does not wait.
        rows = self.contents() if self.features.device.type == 'cpu' else self.features
        assignment = balance([rows, self.to_rows(scores)], self.num_iters, self._sum_of_rows())
        return assignment.to(at_least_float32(scores).dtype), (self.num_filled > 0).float()

    @torch.no_grad()
    def remember(self, scores: Tensor, chosen: Tensor, count: Optional[Tensor] = None) -> None:
        """Store the first ``per_step`` chosen rows.

        Args:
            scores (Tensor): Teacher scores, shape (N, K).
            chosen (Tensor): Indices of rows, newest first, int64 (R,).
            count (Tensor, optional): Number of chosen rows to store, int64 scalar. Defaults to
                None, all.
        """
        chosen = chosen[: self.per_step].to(scores.device, non_blocking=True)
        self.push(self.to_rows(scores[chosen]), count)

    def newest_scores(self) -> Tensor:
        """Return the stored scores, newest first, up to rounding, (len(self), K)."""
        rows = at_least_float32(self.newest_first())
        return rows.log().mul(self.temperature).add(1)

    def to_rows(self, scores: Tensor) -> Tensor:
        """Convert scores (N, K) to rows of the queue, at least float32."""
        dtype = torch.promote_types(self.features.dtype, torch.float32)
        return scores.to(dtype).sub(1).div_(self.temperature).exp_()

    def _sum_of_rows(self) -> Tensor:
        """Sum of all rows, at least float32, (K,)."""
        if self._sums is None:
            self._sums = self._sums_of_blocks(
                torch.arange(-(-self.size // _BLOCK), device=self.features.device)
            )
        return self._sums.sum(dim=0)

    def _sums_of_blocks(self, blocks: Tensor) -> Tensor:
        """Sum the rows of each of some blocks (n,) of 128 slots, at least float32, (n, K)."""
        sums = []
        for part in blocks.split(max(1, _AT_A_TIME // (_BLOCK * self.features.shape[1]))):
            slots = part[:, None] * _BLOCK + torch.arange(_BLOCK, device=part.device)  # (n, 128)
            rows = at_least_float32(self.features[slots.clamp(max=self.size - 1)])
            sums.append((rows * (slots < self.size)[..., None]).sum(dim=1))
        return torch.cat(sums)

    def _rows_changed(self, first: Tensor, count: int) -> None:
        if first.device.type == 'cpu':
            self.is_full  # noqa: B018  (once it is True, :meth:`contents` reads no counter)
        if self._sums is None:
            return
        # Slots from ``first`` on lie in at most so many blocks, and go on at the first one.
        touched = min(-(-count // _BLOCK) + 2, len(self._sums))
        blocks = first // _BLOCK + torch.arange(touched, device=first.device)
        blocks = blocks % len(self._sums)
        self._sums[blocks] = self._sums_of_blocks(blocks)

    def _drop_caches(self) -> None:
        self._sums = None

    def _upgrade(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert rows that were stored as plain scores or with another temperature."""
        if 'features' not in state:
            return state
        rows, temperature = state['features'], state.get('row_temperature')
        if temperature is None:  # written by version 0.1, which stored the scores themselves
            rows = self.to_rows(rows)
            rows[int(state.get('num_filled', len(rows))) :] = 0
        elif float(temperature) != float(self.row_temperature):
            rows = at_least_float32(rows).pow(float(temperature) / self.temperature)
        return {**state, 'features': rows, 'row_temperature': torch.tensor(float(self.temperature))}


def _row_dtype(name: str, temperature: float) -> torch.dtype:
    """Type of the stored rows, of which the smallest value, exp(-2 / temperature), must be > 0."""
    if 2 / temperature < 80:
        return getattr(torch, name)
    if name != 'float32':
        raise ValueError(
            f'dtype={name!r} cannot hold exp(-2 / temperature) for temperature={temperature}: '
            "raise the temperature above 0.025, or use dtype='float32', which then stores float64"
        )
    return torch.float64
