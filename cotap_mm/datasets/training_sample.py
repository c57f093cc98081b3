"""The structure of one training sample."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from .decoded_images import DecodedImages


class _Crops(TypedDict, total=False):
    global_crops: Tensor
    local_crops: Tensor


class BranchCrops(_Crops):
    """Crops of an image and of its positive, for one branch; axis 0 is image, positive.

    Attributes:
        global_crops (Tensor): Shape (2, 2, G, G, 3), uint8. Missing if the training device crops.
        local_crops (Tensor): Shape (2, L, S, S, 3), uint8. Missing if the training device crops.
        boxes (Tensor): x1, y1, x2, y2 of each crop, global crops first, in pixels of the decoded
            image, shape (2, 2 + L, 4), float32.
        color_draws (Tensor): Uniform random numbers in [0, 1) that determine the color
            augmentation of each crop, shape (2, 2 + L, :data:`cotap_mm.ops.COLOR_DRAWS`), float32.
        path (list[str]): Names of the image and of its positive.
    """

    boxes: Tensor
    color_draws: Tensor
    path: list[str]


class _Branches(TypedDict):
    patch: BranchCrops
    cls: BranchCrops


class TrainingSample(_Branches, total=False):
    """One sample of :class:`cotap_mm.datasets.NeighborPairs`.

    Attributes:
        patch (BranchCrops): Crops for the patch branch.
        cls (BranchCrops): Crops for the CLS branch.
        images (DecodedImages): Images of both branches, if the training device crops.
    """

    images: DecodedImages
