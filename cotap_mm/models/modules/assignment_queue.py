"""The teacher's past scores, which keep the cluster assignment balanced."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import world_size
from cotap_mm.ops import at_least_float32, balance

from .feature_queue import FeatureQueue


class AssignmentQueue(FeatureQueue):
    """Past teacher scores and the Sinkhorn assignment that runs over them.

    A row holds ``exp((score - 1) / temperature)``, which is what the assignment reads, in
    (0, 1] since scores are cosines. So a step computes it for new rows only, and nothing
    as large as the queue is ever made. Rows that are not filled yet are 0.

    Args:
        size (int): Rows over **all ranks**; each rank holds its share.
        num_clusters (int): K, width of a row.
        temperature (float): Of the Sinkhorn assignment, > 0.
        per_step (int): Most rows that enter per step on a rank.
        num_iters (int): Rounds of Sinkhorn. Defaults to 3.

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
        # exp(-2 / temperature), the smallest value, must not vanish.
        dtype = torch.float32 if 2 / temperature < 80 else torch.float64
        super().__init__(size // world_size(), (num_clusters,), dtype)
        self.temperature = temperature
        self.per_step = per_step
        self.num_iters = num_iters
        # In the checkpoint, so that it can be resumed with another one.
        self.register_buffer('row_temperature', torch.tensor(float(temperature)))

    @torch.no_grad()
    def assign(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Assign current scores, balanced over queue and batch together.

        Args:
            scores (Tensor): Teacher scores, cosines, shape (N, K).

        Returns:
            tuple[Tensor, Tensor]: Assignment (N, K), float32 (float64 for such scores), and
            whether the queue held anything (a float scalar, 1 or 0): without a queue a batch
            is too small to balance, and the method skips the losses that use it.
        """
        assignment = balance([self.features, self.to_rows(scores)], self.num_iters)
        return assignment.to(at_least_float32(scores).dtype), (self.num_filled > 0).float()

    @torch.no_grad()
    def remember(self, scores: Tensor, chosen: Tensor, count: Optional[Tensor] = None) -> None:
        """Store the first ``per_step`` chosen rows.

        Args:
            scores (Tensor): Teacher scores, shape (N, K).
            chosen (Tensor): Indices of rows, the first counting as the newest, int64 (R,).
            count (Tensor, optional): Only that many of them, int64 scalar. Defaults to all.
        """
        chosen = chosen[: self.per_step].to(scores.device, non_blocking=True)
        self.push(self.to_rows(scores[chosen]), count)

    def newest_scores(self) -> Tensor:
        """The scores that are remembered, newest first, to rounding (len(self), K)."""
        return self.newest_first().log().mul(self.temperature).add(1)

    def to_rows(self, scores: Tensor) -> Tensor:
        """Scores (N, K) as they are stored."""
        return scores.to(self.features.dtype).sub(1).div_(self.temperature).exp_()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        names = [prefix + name for name in ('features', 'row_temperature', 'num_filled')]
        if names[0] in state_dict:
            rows, before = state_dict[names[0]], state_dict.get(names[1])
            if before is None:  # written by version 0.1, which kept the scores themselves
                rows = self.to_rows(rows)
                rows[int(state_dict.get(names[2], len(rows))) :] = 0
            elif float(before) != float(self.row_temperature):
                rows = rows.pow(float(before) / self.temperature)
            state_dict = {
                **state_dict,
                names[0]: rows,
                names[1]: torch.tensor(float(self.temperature)),
            }
        super()._load_from_state_dict(state_dict, prefix, *args)
