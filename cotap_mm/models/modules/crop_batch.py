"""Crops of both branches in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class CropBatch:
    """Crops of the patch and the CLS branch, concatenated for one forward pass.

    Patch crops come first, CLS crops last. Other code reads the rows of a branch with
    :meth:`rows_of` and does not rely on this order.

    Args:
        views (Mapping[str, Mapping[str, Tensor]]): Views of each branch, ``patch``, ``cls`` or
            both.
        key (str): Views to take, e.g. ``'student_global'``, shape (I, V, 3, h, w). A branch with
            V = 0 is skipped.

    Attributes:
        shapes (dict[str, torch.Size]): (I, V) of each branch that has crops.
    """

    def __init__(self, views: Mapping[str, Mapping[str, Tensor]], key: str) -> None:
        crops = {
            branch: views[branch][key]
            for branch in ('patch', 'cls')
            if branch in views and views[branch][key].shape[1]
        }
        self.shapes = {branch: images.shape[:2] for branch, images in crops.items()}
        self._crops = [images.flatten(0, 1) for images in crops.values()]

    def __bool__(self) -> bool:
        return bool(self.shapes)

    def concatenated(self) -> Tensor:
        """Return the crops of all branches, shape (sum of I * V, 3, h, w)."""
        return torch.cat(self._crops)

    def rows_of(self, branch: str, rows: Tensor) -> Tensor:
        """Select the rows of one branch.

        Args:
            branch (str): ``'patch'`` or ``'cls'``.
            rows (Tensor): One row per crop, shape (sum of I * V, ...).

        Returns:
            Tensor: Shape (I * V, ...).
        """
        count = self.shapes[branch].numel()
        return rows[:count] if branch == 'patch' else rows[-count:]

    def unflatten(self, branch: str, rows: Tensor) -> Tensor:
        """Split the crop axis of one branch into images and views.

        Args:
            branch (str): ``'patch'`` or ``'cls'``.
            rows (Tensor): Rows of that branch, shape (I * V, ...).

        Returns:
            Tensor: Shape (I, V, ...).
        """
        return rows.unflatten(0, self.shapes[branch])
