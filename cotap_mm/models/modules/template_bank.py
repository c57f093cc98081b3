"""Bank of recent templates, from which the prototypes start."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_min, broadcast
from cotap_mm.ops import at_least_float32, spherical_kmeans
from cotap_mm.rules import check_arguments, whole

from .feature_queue import FeatureQueue


class TemplateBank(FeatureQueue):
    """Recent templates: whole crops, average-pooled to 3 x 3 tokens.

    Until it is full, every crop of a step is added; then ``per_step`` random ones. The norms of the
    templates are computed when they are added.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        size (int): Capacity. 1024 in the paper.
        channels (int): d, width of the tokens.
        per_step (int): Templates that a step adds to a full bank. Defaults to 32.

    Raises:
        ValueError: If an argument is not a positive integer.
    """

    @check_arguments(size=whole(1), channels=whole(1), per_step=whole(1))
    def __init__(self, size: int, channels: int, per_step: int = 32) -> None:
        super().__init__(size, (channels, 3, 3))
        self.per_step = per_step
        self.register_buffer('has_started_prototypes', torch.zeros((), dtype=torch.bool))
        self._had_started = False
        self._norms: Optional[Tensor] = None

    @property
    def has_started(self) -> bool:
        """Whether it is known, without asking the device, that the prototypes have started."""
        return self._had_started

    def norms(self) -> Tensor:
        """Return the L2 norm of each of the :meth:`contents`, shape (len(self),)."""
        if self._norms is None:
            self._norms = self.features.flatten(1).norm(dim=1)
        return self._norms[: len(self.contents())]

    def _rows_changed(self, first: Tensor, count: int) -> None:
        if self._norms is not None:
            slots = (first + torch.arange(count, device=first.device)) % self.size
            self._norms[slots] = self.features[slots].flatten(1).norm(dim=1)

    def _drop_caches(self) -> None:
        self._norms = None

    @torch.no_grad()
    def collect(self, patches: Tensor, grid: tuple[int, int], order: Tensor) -> None:
        """Pool and store crops.

        Args:
            patches (Tensor): Patch tokens entering the last block, shape (R, N, d).
            grid (tuple[int, int]): H, W with H*W = N.
            order (Tensor): Random order of the R crops, int64 (R,).
        """
        maps = at_least_float32(patches.detach()).transpose(1, 2).unflatten(2, grid)  # (R, d, H, W)
        templates = F.adaptive_avg_pool2d(maps, 3)[order.to(maps.device, non_blocking=True)]
        self.push(templates[: self.per_step] if self.is_full else templates)

    @torch.no_grad()
    def start_prototypes(self, prototypes: Tensor) -> bool:
        """Set the prototypes by spherical k-means, once, when the banks of all ranks are full.

        Every rank clusters its own templates; all ranks use the centers of rank 0.

        Args:
            prototypes (Tensor): Prototypes of the student, changed in place, (M, d, 3, 3).

        Returns:
            bool: Whether this call set the prototypes.
        """
        # Cached once it is True, since reading the buffer synchronizes host and device.
        self._had_started = self._had_started or bool(self.has_started_prototypes)
        if self._had_started:
            return False
        ready = torch.tensor(int(self.is_full), device=prototypes.device)
        if not all_reduce_min(ready):
            return False
        centers = spherical_kmeans(self.contents().flatten(1), len(prototypes))
        prototypes.copy_(broadcast(centers.contiguous()).view_as(prototypes))
        self.has_started_prototypes.fill_(True)
        return True

    def _shard(self, rows: Tensor, rank: int, world_size: int) -> Tensor:
        # Banks are not sharded: each is as large as that of a single process. So each rank takes
        # all rows, its own ones first.
        is_mine = torch.arange(len(rows), device=rows.device) % world_size == rank
        return torch.cat([rows[is_mine], rows[~is_mine]])

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self._had_started = False
        super()._load_from_state_dict(state_dict, prefix, *args)
