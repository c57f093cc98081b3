"""Distance of the patch similarities of two networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.ops import at_least_float32
from cotap_mm.registry import MODELS

from .finite_check import check_finite


@MODELS.register_module()
class GramLoss(nn.Module):
    r"""Keep the cosines between the patches of an image as they are in another network.

    .. math::
        L = \frac{1}{N^2} \lVert S S^\top - A A^\top \rVert_F^2

    averaged over images, with the L2-normalized patches S of the student and A of the anchor, here
    the initial network. Features may rotate as long as their similarities stay. Value and gradient
    are 0 where both networks are equal. Computed in at least float32.

    Cost: O(B N^2) memory. Source: Gram anchoring of DINOv3, https://arxiv.org/abs/2508.10104, whose
    anchor is an earlier teacher.
    """

    def forward(self, student: Tensor, anchor: Tensor) -> Tensor:
        """Compare B images of N patches.

        Args:
            student (Tensor): Patches, shape (B, N, d).
            anchor (Tensor): Patches of the same images, shape (B, N, e); a constant.

        Returns:
            Tensor: The loss, a scalar in [0, 4].

        Raises:
            ValueError: If shapes do not fit, or if values on a CPU are not finite.
        """
        if student.ndim != 3 or anchor.ndim != 3 or student.shape[:2] != anchor.shape[:2]:
            raise ValueError(
                'student (B, N, d) and anchor (B, N, e) must agree in B and N, got '
                f'{tuple(student.shape)} and {tuple(anchor.shape)}'
            )
        with torch.autocast(student.device.type, enabled=False):
            loss = (_cosines(student) - _cosines(anchor.detach())).square().mean()
        check_finite('patches of student and anchor', loss)
        return loss


def _cosines(patches: Tensor) -> Tensor:
    """Cosines between the patches of each image, (B, N, d) -> (B, N, N)."""
    unit = F.normalize(at_least_float32(patches), dim=-1)
    return unit @ unit.transpose(1, 2)
