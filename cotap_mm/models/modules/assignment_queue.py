"""Queue of past teacher scores, which keeps the cluster assignment balanced."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import world_size
from cotap_mm.ops import at_least_float32, balance

from .feature_queue import FeatureQueue


class AssignmentQueue(FeatureQueue):
    """Past teacher scores and the Sinkhorn assignment over them.

    A row holds ``exp((score - 1) / temperature)``, the input of the assignment, which is in (0, 1]
    since scores are cosines. So a step computes the exponential for new rows only and never
    allocates a tensor as large as the queue. Rows that are not filled yet are 0.

    Args:
        size (int): Number of rows over **all ranks**; each rank holds an equal part.
        num_clusters (int): K, width of a row.
        temperature (float): Sinkhorn temperature, > 0.
        per_step (int): Maximum number of rows that a rank adds per step.
        num_iters (int): Sinkhorn iterations. Defaults to 3.

    Raises:
        ValueError: If there are fewer rows than ranks, or ``temperature`` is not positive.
    """

    def __init__(
        self, size: int, num_clusters: int, temperature: float, per_step: int, num_iters: int = 3
    ) -> None:
        if size < world_size():
            raise ValueError(
                f'size must be at least the number of ranks, {world_size()}, got {size}'
            )
        if not temperature > 0:
            raise ValueError(f'temperature must be > 0, got {temperature}')
        # The smallest value, exp(-2 / temperature), must not underflow.
        dtype = torch.float32 if 2 / temperature < 80 else torch.float64
        super().__init__(size // world_size(), (num_clusters,), dtype)
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
        assignment = balance([self.features, self.to_rows(scores)], self.num_iters)
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
        return self.newest_first().log().mul(self.temperature).add(1)

    def to_rows(self, scores: Tensor) -> Tensor:
        """Convert scores (N, K) to rows of the queue."""
        return scores.to(self.features.dtype).sub(1).div_(self.temperature).exp_()

    def _upgrade(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert rows that were stored as plain scores or with another temperature."""
        if 'features' not in state:
            return state
        rows, temperature = state['features'], state.get('row_temperature')
        if temperature is None:  # written by version 0.1, which stored the scores themselves
            rows = self.to_rows(rows)
            rows[int(state.get('num_filled', len(rows))) :] = 0
        elif float(temperature) != float(self.row_temperature):
            rows = rows.pow(float(temperature) / self.temperature)
        return {**state, 'features': rows, 'row_temperature': torch.tensor(float(self.temperature))}
