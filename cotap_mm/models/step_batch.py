"""Types of the batch of one training step, before and after preprocessing.

Shape letters: B images, I = 2B images and positives (images first), G global crops, L local crops,
V = G + L crops, g and l their sides in pixels.
"""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor

#: Branch -> (images I, global crops G of each, their side in pixels).
GlobalShapes = dict[str, tuple[int, int, int]]


class _Crops(TypedDict):
    global_crops: Tensor  # (B, 2, G, g, g, 3) uint8; axis 1: image, positive
    local_crops: Tensor  # (B, 2, L, l, l, 3) uint8
    # (B, 2, V, 4) x1, y1, x2, y2, global crops first; in pixels of the image as it was decoded, for
    # which ``NeighborPairs(reduce_jpeg=True)`` may reduce its size
    boxes: Tensor


class Crops(_Crops, total=False):
    """Collated crops of one branch, as :class:`cotap_mm.datasets.NeighborPairs` yields them."""

    color_draws: Tensor  # (B, 2, V, COLOR_DRAWS) in [0, 1)


class _Branches(TypedDict):
    patch: Crops
    cls: Crops


class CropsBatch(_Branches, total=False):
    """Collated crops of both branches: scenes for patches, object-centered images for CLS."""

    # Instead of crops, see cotap_mm.datasets.decoded_images.collate_images
    images: dict[str, Any]


class Views(TypedDict):
    """Normalized views of one branch, as :class:`CoTAPDataPreprocessor` returns them."""

    student_global: Tensor  # (I, G, 3, g, g), color-augmented
    student_local: Tensor  # (I, L, 3, l, l), color-augmented
    teacher_global: Tensor  # (I, G, 3, g, g), without color augmentation
    common_global: Tensor  # (I, G, V, 4) intersections of crops, in pixels of the global crop
    common_other: Tensor  # (I, V, G, 4) intersections of crops, in pixels of the other crop


class ViewsBatch(TypedDict, total=False):
    """Views of both branches, the inputs of :meth:`CoTAP.loss`.

    A branch that no loss reads may be missing.
    """

    patch: Views
    cls: Views
    draws: dict[str, Tensor]  # numbers that RandomDraws.ahead has drawn for this step
