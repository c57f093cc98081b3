"""Losses that predict the teacher's cluster assignment of one view from another view."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from cotap_mm.distributed.collectives import all_reduce_sum, world_size
from cotap_mm.ops import at_least_float32, roi_pool
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, number, whole

from .finite_check import check_finite


@MODELS.register_module()
class ClusterAssignmentLoss(nn.Module):
    """Cross-entropy of student scores against soft cluster assignments.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; the objective is SwAV's,
    https://arxiv.org/abs/2006.09882.

    Args:
        temperature (float): Temperature of the student's softmax, > 0. Defaults to 0.1.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """

    @check_arguments(temperature=number(0, above=True))
    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, scores: Tensor, assignment: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Compute the mean cross-entropy over the rows that the mask selects.

        Args:
            scores (Tensor): Student scores, shape (..., K).
            assignment (Tensor): Teacher's assignment, shape (..., K); a constant.
            mask (Tensor, optional): Mask of the rows, shape (...). Defaults to None, all rows.

        Returns:
            Tensor: A scalar; 0 if the mask selects no row.

        Raises:
            ValueError: If shapes differ, or if values on a CPU are not finite.
        """
        cost = self.cost(scores, assignment)
        if mask is None:
            return cost.mean()
        if mask.shape != cost.shape:
            raise ValueError(f'mask must have shape {tuple(cost.shape)}, got {tuple(mask.shape)}')
        kept = mask.to(cost.dtype)
        return (cost * kept).sum() / kept.sum().clamp_min(1)

    def cost(self, scores: Tensor, assignment: Tensor) -> Tensor:
        """Compute the cross-entropy of each row.

        Args:
            scores (Tensor): Student scores, shape (..., K).
            assignment (Tensor): Teacher's assignment, shape (..., K); a constant.

        Returns:
            Tensor: Shape (...).

        Raises:
            ValueError: If shapes differ, or if values on a CPU are not finite.
        """
        if scores.shape != assignment.shape:
            raise ValueError(
                'scores and assignment must have the same shape, got '
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
    """Patches of the same image: predict the same clusters where two crops overlap.

    The teacher's assignment of a global crop and the student's scores of every other crop are
    RoI-aligned over their common box. The loss is the mean over the cells on the foreground of that
    global crop, then over the other crops, then over the global crops. (The released
    implementation uses the foreground of a wrong crop.) Cells are counted over **all ranks**, so
    the mean over the ranks of a batch is what one process would compute.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        temperature (float): Temperature of the student's softmax, > 0. Defaults to 0.1.
        roi_size (int): Height and width of the aligned box, in cells. Defaults to 6.
        foreground_threshold (float): Aligned foreground from which a cell counts, in [0, 1]; with 0
            all cells do. A box that is all foreground gives 1 only up to rounding, hence the
            default 1 - 1e-4; the reference vectors use 1.0.

    Raises:
        ValueError: If an argument is out of range.
    """

    @check_arguments(roi_size=whole(1), foreground_threshold=number(0, 1))
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
        """Compute the loss over all pairs of a global crop and another crop.

        Args:
            global_scores (Tensor): Student scores, shape (I, G, K, H, W).
            local_scores (Tensor, optional): Student scores, shape (I, L, K, h, w).
            assignment (Tensor): Teacher's assignment, shape (I, G, K, H, W).
            foreground (Tensor): Teacher's masks, shape (I, G, H, W).
            boxes (tuple[Tensor, Tensor]): From :func:`cotap_mm.ops.common_boxes`,
                (I, G, V, 4) and (I, V, G, 4) with V = G + L, in crop pixels.
            patch_size (int): Patch size in pixels.

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If there is only one crop.
        """
        in_global, in_other = boxes
        if in_global.shape[2] < 2:
            raise ValueError('a global crop needs another crop to be compared with')
        target, mask = self._targets(assignment, foreground, in_global, patch_size)
        predicted = self._predictions(global_scores, local_scores, in_other, patch_size)
        cost = self.cost(predicted.transpose(3, 4), target.transpose(3, 4)) * mask
        # Mean over the selected cells of a pair of crops, on all ranks, then over the pairs.
        kept = all_reduce_sum(mask.sum(dim=(0, 3)).to(cost.dtype)).clamp_min(1) / world_size()
        return (cost.sum(dim=(0, 3)) / kept).mean()

    def _targets(
        self, assignment: Tensor, foreground: Tensor, in_global: Tensor, patch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Align the teacher's maps of each global crop over its boxes with every other crop.

        Returns:
            tuple[Tensor, Tensor]: Assignments (I, G, V - 1, K, cells) and the mask of the cells on
            the foreground (I, G, V - 1, cells).
        """
        num_global = in_global.shape[1]
        boxes = torch.stack([_without(in_global[:, g], g) for g in range(num_global)], dim=1)
        maps = torch.cat([assignment, foreground.to(assignment.dtype)[:, :, None]], dim=2)
        cells = self._cells(maps, boxes, patch_size)  # (I, G, V - 1, K + 1, cells)
        return cells[..., :-1, :], cells[..., -1, :] >= self.foreground_threshold

    def _predictions(
        self,
        global_scores: Tensor,
        local_scores: Optional[Tensor],
        in_other: Tensor,
        patch_size: int,
    ) -> Tensor:
        """Align the student's scores of every other crop over its box with each global crop.

        Returns:
            Tensor: Scores, shape (I, G, V - 1, K, cells), in the order of the targets: for each
            global crop the other global crops, then the local crops.
        """
        num_global = in_other.shape[2]
        boxes = torch.stack([_without(in_other[:, v], v) for v in range(num_global)], dim=1)
        by_global = self._cells(global_scores, boxes, patch_size)  # (I, G, G - 1, K, cells)
        by_local = None
        if local_scores is not None:
            boxes = in_other[:, num_global:]
            by_local = self._cells(local_scores, boxes, patch_size)  # (I, L, G, K, cells)
        pairs: list[Tensor] = []
        for g in range(num_global):
            for v in range(num_global):
                if v != g:
                    # Crop v has no box with itself, so its box with a later crop g is at g - 1.
                    pairs.append(by_global[:, v, g - 1 if g > v else g])
            if by_local is not None:
                pairs += by_local[:, :, g].unbind(1)
        return torch.stack(pairs, dim=1).unflatten(1, (num_global, -1))

    def _cells(self, maps: Tensor, boxes: Tensor, patch_size: int) -> Tensor:
        """Align R boxes of each map: (I, V, C, H, W), (I, V, R, 4) -> (I, V, R, C, cells)."""
        cells = roi_pool(maps.flatten(0, 1), boxes.flatten(0, 1), patch_size, self.roi_size)
        return cells.unflatten(0, maps.shape[:2]).flatten(4)


def _without(views: Tensor, skipped: int) -> Tensor:
    """Drop one view, (I, V, ...) -> (I, V - 1, ...).

    Uses slices, since copying a list of indices to the device would synchronize host and device.
    """
    return torch.cat([views[:, :skipped], views[:, skipped + 1 :]], dim=1)


@MODELS.register_module()
class ClsClusterLoss(ClusterAssignmentLoss):
    """CLS of the same image: every other crop predicts the clusters of a global crop.

    The loss is the mean over the other crops, then over the global crops.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.
    """

    def forward(self, scores: Tensor, assignment: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the loss over all pairs of a global crop and another crop.

        Args:
            scores (Tensor): Student scores, global crops first, shape (I, V, K).
            assignment (Tensor): Teacher's assignment, shape (I, G, K), G <= V.

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
    """CLS of an image and its neighbor: each predicts the clusters of the other.

    The loss is the mean over all pairs of global crops in both directions.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        temperature (float): Temperature of the student's softmax, > 0. Defaults to 0.2.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__(temperature)

    def forward(self, scores: Tensor, assignment: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the loss between the two halves of the leading axis.

        Args:
            scores (Tensor): Student scores of global crops, images first, then their positives in
                the same order, shape (2B, G, K).
            assignment (Tensor): Teacher's assignment, shape (2B, G, K).

        Returns:
            Tensor: A scalar.

        Raises:
            ValueError: If the leading axis is odd.
        """
        if len(scores) % 2:
            raise ValueError(
                f'scores must hold B images and their B positives, got {len(scores)} rows in total'
            )
        partner = assignment.roll(len(scores) // 2, dims=0)  # image <-> positive
        pairs = scores.shape[1]
        return super().forward(
            scores[:, None].expand(-1, pairs, -1, -1), partner[:, :, None].expand(-1, -1, pairs, -1)
        )
