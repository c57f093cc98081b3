"""The teacher's past scores, which keep the cluster assignment balanced."""
from typing import Tuple

import torch
from torch import Tensor

from cotap_mm.ops import sinkhorn, world_size

from .feature_queue import FeatureQueue


class AssignmentQueue(FeatureQueue):
    """Past teacher scores and the Sinkhorn assignment that runs over them.

    Args:
        size (int): Rows over **all ranks**; each rank holds its share.
        num_clusters (int): K, width of a row.
        temperature (float): Of the Sinkhorn assignment, > 0.
        per_step (int): Most rows that enter per step on a rank.
        num_iters (int): Rounds of Sinkhorn. Defaults to 3.

    Raises:
        ValueError: If there are fewer rows than ranks.
    """

    def __init__(self, size: int, num_clusters: int, temperature: float, per_step: int,
                 num_iters: int = 3) -> None:
        if size < world_size():
            raise ValueError(f'size must be at least the number of ranks, {world_size()}, '
                             f'got {size}')
        super().__init__(size // world_size(), (num_clusters, ))
        self.temperature = temperature
        self.per_step = per_step
        self.num_iters = num_iters

    @torch.no_grad()
    def assign(self, scores: Tensor) -> Tuple[Tensor, bool]:
        """Assign current scores, balanced over queue and batch together.

        Args:
            scores (Tensor): Teacher scores, shape (N, K).

        Returns:
            tuple[Tensor, bool]: Assignment (N, K), and whether the queue held anything:
            without a queue a batch is too small to balance, and the method skips
            the losses that use it.
        """
        scores = scores.float()
        together = torch.cat([self.contents(), scores])
        assignment = sinkhorn(together, self.temperature, self.num_iters)
        return assignment[len(together) - len(scores):], len(self) > 0

    def remember(self, scores: Tensor, order: Tensor) -> None:
        """Store the first ``per_step`` rows of ``scores`` (N, K) in the order given (N,)."""
        self.push(scores[order[:self.per_step].to(scores.device)])
