"""The structure of one training sample."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class BranchCrops(TypedDict):
    """Crops of an image and of its positive, for one branch; axis 0 is image, positive.

    Attributes:
        global_crops (Tensor): Shape (2, 2, G, G, 3), uint8.
        local_crops (Tensor): Shape (2, L, S, S, 3), uint8.
        boxes (Tensor): x1, y1, x2, y2 of each crop, global crops first, in pixels of the decoded
            image, shape (2, 2 + L, 4), float32.
        color_draws (Tensor): Uniform random numbers in [0, 1) that determine the color
            augmentation of each crop, shape (2, 2 + L, :data:`cotap_mm.ops.COLOR_DRAWS`), float32.
        path (list[str]): Names of the image and of its positive.
    """

    global_crops: Tensor
    local_crops: Tensor
    boxes: Tensor
    color_draws: Tensor
    path: list[str]


class TrainingSample(TypedDict):
    """One sample of :class:`cotap_mm.datasets.NeighborPairs`.

    Attributes:
        patch (BranchCrops): Crops for the patch branch.
        cls (BranchCrops): Crops for the CLS branch.
    """

    patch: BranchCrops
    cls: BranchCrops
