"""Predict the teacher's cluster assignment of one view from another view."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from cotap_mm.distributed.collectives import all_reduce_sum, world_size
from cotap_mm.ops import at_least_float32, roi_pool
from cotap_mm.registry import MODELS

from .finite_check import check_finite


@MODELS.register_module()
class ClusterAssignmentLoss(nn.Module):
    """Cross-entropy of student scores against soft cluster assignments.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; the objective is SwAV's,
    https://arxiv.org/abs/2006.09882.

    Args:
        temperature (float): Of the student's softmax, > 0. Defaults to 0.1.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature must be > 0, got {temperature}')
        self.temperature = temperature

    def forward(self, scores: Tensor, assignment: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Mean cross-entropy over the rows that the mask keeps.

        Args:
            scores (Tensor): Student scores, shape (..., K).
            assignment (Tensor): Teacher's assignment, shape (..., K); a constant.
            mask (Tensor, optional): Rows that count, shape (...). Defaults to all.

        Returns:
            Tensor: A scalar; 0 if the mask keeps no row.

        Raises:
            ValueError: If shapes differ or, on a CPU, values are not finite.
        """
        cost = self.cost(scores, assignment)
        if mask is None:
            return cost.mean()
        if mask.shape != cost.shape:
            raise ValueError(f'mask must have shape {tuple(cost.shape)}, got {tuple(mask.shape)}')
        kept = mask.to(cost.dtype)
        return (cost * kept).sum() / kept.sum().clamp_min(1)

    def cost(self, scores: Tensor, assignment: Tensor) -> Tensor:
        """Cross-entropy of each row, shape (...); arguments as in :meth:`forward`."""
        if scores.shape != assignment.shape:
            raise ValueError(
                'scores and assignment must have one shape, got '
                f'{tuple(scores.shape)} and {tuple(assignment.shape)}'
            )
        precise = at_least_float32(scores)
        with torch.autocast(precise.device.type, enabled=False):
            log_share = (precise / self.temperature).log_softmax(dim=-1)
            cost = -(assignment.detach().to(precise.dtype) * log_share).sum(dim=-1)
        check_finite('scores and assignment', cost)
        return cost


@MODELS.register_module()
class PatchClusterLoss(ClusterAssignmentLoss):
    """Same image, patches: where two crops overlap, predict the same clusters.

    The teacher's assignment of a global crop and the student's scores of every
    other crop are RoI-aligned over their common box; the cells that lie on the
    foreground of that global crop count. Mean over the other crops, then over the
    global crops. (The released implementation mixes up whose foreground it uses.) Cells
    are counted over **all ranks**, so that the ranks of one batch give, in the mean, what
    one process would.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        temperature (float): Of the student's softmax, > 0. Defaults to 0.1.
        roi_size (int): Cells a side of the aligned box. Defaults to 6.
        foreground_threshold (float): A cell counts if its aligned foreground is at
            least this. An all-foreground box gives 1 only up to rounding, hence the
            default 1 - 1e-4; the reference vectors use 1.0.
    """

    def __init__(
        self, temperature: float = 0.1, roi_size: int = 6, foreground_threshold: float = 1 - 1e-4
    ) -> None:
        super().__init__(temperature)
        self.roi_size = roi_size
        self.foreground_threshold = foreground_threshold

    def forward(  # type: ignore[override]
        self,
        global_scores: Tensor,
        local_scores: Optional[Tensor],
        assignment: Tensor,
        foreground: Tensor,
        boxes: tuple[Tensor, Tensor],
        patch_size: int,
    ) -> Tensor:
        """Loss over all pairs of a global crop and another crop.

        Args:
            global_scores (Tensor): Student, shape (I, G, K, H, W).
            local_scores (Tensor, optional): Student, shape (I, L, K, h, w).
            assignment (Tensor): Teacher's assignment, shape (I, G, K, H, W).
            foreground (Tensor): Teacher's masks, shape (I, G, H, W).
            boxes (tuple[Tensor, Tensor]): From :func:`cotap_mm.ops.common_boxes`:
                (I, G, V, 4) and (I, V, G, 4) with V = G + L, in crop pixels.
            patch_size (int): Pixels a patch.

        Returns:
            Tensor: A scalar.
        """
        in_global, in_other = boxes
        num_global, num_views = in_global.shape[1:3]
        if num_views < 2:
            raise ValueError('a global crop needs another crop to be compared with')

        def cells(maps: Tensor, box: Tensor) -> Tensor:
            """Maps (I, V, C, H, W) and R boxes in each, (I, V, R, 4) -> (I, V, R, C, cells)."""
            return (
                roi_pool(maps.flatten(0, 1), box.flatten(0, 1), patch_size, self.roi_size)
                .unflatten(0, maps.shape[:2])
                .flatten(4)
            )

        # Every pair of a global crop and another crop, (I, G, V - 1, ...).
        box = torch.stack([_without(in_global[:, g], g) for g in range(num_global)], dim=1)
        teacher = torch.cat([assignment, foreground.to(assignment.dtype)[:, :, None]], dim=2)
        aligned = cells(teacher, box)
        mask = aligned[..., -1, :] >= self.foreground_threshold  # (I, G, V - 1, cells)

        box = torch.stack([_without(in_other[:, v], v) for v in range(num_global)], dim=1)
        by_global = cells(global_scores, box)  # (I, G, G - 1, K, cells)
        by_local = (
            None if local_scores is None else cells(local_scores, in_other[:, num_global:])
        )  # (I, L, G, K, cells)
        pairs: list[Tensor] = []
        for g in range(num_global):
            # The boxes of crop v leave out v itself, so those behind it moved up.
            pairs += [by_global[:, v, g - (g > v)] for v in range(num_global) if v != g]
            pairs += [] if by_local is None else by_local[:, :, g].unbind(1)
        predicted = torch.stack(pairs, dim=1).unflatten(1, (num_global, -1))

        cost = self.cost(predicted.transpose(3, 4), aligned[..., :-1, :].transpose(3, 4)) * mask
        # Mean over the kept cells of a pair of crops, on all ranks, then over the pairs.
        kept = all_reduce_sum(mask.sum(dim=(0, 3)).to(cost.dtype)).clamp_min(1) / world_size()
        return (cost.sum(dim=(0, 3)) / kept).mean()


def _without(views: Tensor, left_out: int) -> Tensor:
    """All views but one, (I, V, ...) -> (I, V - 1, ...).

    Slices: a list of indices would have to travel to the device, which makes the host wait.
    """
    return torch.cat([views[:, :left_out], views[:, left_out + 1 :]], dim=1)


@MODELS.register_module()
class ClsClusterLoss(ClusterAssignmentLoss):
    """Same image, CLS: every other crop predicts a global crop's clusters.

    Mean over the other crops, then over the global crops.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.
    """

    def forward(self, scores: Tensor, assignment: Tensor) -> Tensor:  # type: ignore[override]
        """Loss over all pairs of a global crop and another crop.

        Args:
            scores (Tensor): Student, global crops first, shape (I, V, K).
            assignment (Tensor): Teacher's, shape (I, G, K), G <= V.

        Returns:
            Tensor: A scalar.
        """
        num_views, num_global = scores.shape[1], assignment.shape[1]
        shape = (len(scores), num_global, num_views, scores.shape[2])
        cost = self.cost(scores[:, None].expand(shape), assignment[:, :, None].expand(shape))
        itself = torch.eye(num_global, num_views, device=cost.device)
        return (cost.mean(dim=0) * (1 - itself)).sum() / (num_global * (num_views - 1))


@MODELS.register_module()
class NeighborClusterLoss(ClusterAssignmentLoss):
    """Image against neighbour, CLS: each predicts the other's clusters.

    All pairs of global crops, both directions, mean.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        temperature (float): Of the student's softmax, > 0. Defaults to 0.2.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__(temperature)

    def forward(self, scores: Tensor, assignment: Tensor) -> Tensor:  # type: ignore[override]
        """Loss between the two halves of the leading axis.

        Args:
            scores (Tensor): Student's global crops, images first, then their
                positives in the same order, shape (2B, G, K).
            assignment (Tensor): Teacher's, same shape.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the leading axis is odd.
        """
        if len(scores) % 2:
            raise ValueError(
                f'scores must hold B images and their B positives, got {len(scores)} in all'
            )
        partner = assignment.roll(len(scores) // 2, dims=0)  # image <-> positive
        pairs = scores.shape[1]
        return super().forward(
            scores[:, None].expand(-1, pairs, -1, -1), partner[:, :, None].expand(-1, -1, pairs, -1)
        )
