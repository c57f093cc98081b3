"""Crops of both branches in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

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
        rows = [images.flatten(0, 1) for images in crops.values()]
        whole = _behind_one_another(rows)
        self._crops = rows if whole is None else [whole]

    def __bool__(self) -> bool:
        return bool(self.shapes)

    def concatenated(self) -> Tensor:
        """Return the crops of all branches, shape (sum of I * V, 3, h, w).

        :class:`CoTAPDataPreprocessor` computes them in one tensor, which is not copied.
        """
        return self._crops[0] if len(self._crops) == 1 else torch.cat(self._crops)

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


def _behind_one_another(parts: Sequence[Tensor]) -> Optional[Tensor]:
    """A view of parts that follow one another in one storage; None if they do not."""
    if not parts:
        return None
    first = parts[0]
    storage, end = first.untyped_storage()._cdata, first.storage_offset()
    for part in parts:
        here = part.untyped_storage()._cdata == storage and part.storage_offset() == end
        if not (here and part.is_contiguous() and part.dtype == first.dtype):
            return None
        end += part.numel()
    rows = sum(map(len, parts))
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
