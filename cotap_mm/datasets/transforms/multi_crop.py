"""Draw overlapping global and local crops with their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from cotap_mm.deprecation import warn_renamed
from cotap_mm.ops.resampling import resize_boxes
from cotap_mm.registry import TRANSFORMS
from cotap_mm.rules import check_arguments, number, sequence, whole

Box = tuple[int, int, int, int]


_PAIR = sequence('two numbers', number(), 2)


@TRANSFORMS.register_module()
class MultiCrop:
    """Crop one image of uint8 pixels several times.

    Every crop overlaps every earlier global crop by more than a fraction of the image's area, so
    that each pair of crops has patches to compare. There is no flip, so that boxes map linearly.
    If ``max_draws`` draws do not give such a crop, it is centered in the intersection of the
    global crops, or, for the first crop, in the image (the released implementation draws without
    a limit).

    Source: CoTAP, https://arxiv.org/abs/2509.09429, and Leopart for the boxes.

    Args:
        global_size (int): Side of a global crop in pixels. Defaults to 224.
        local_size (int): Side of a local crop in pixels. Defaults to 96.
        num_global (int): Number of global crops. Defaults to 2. With more than 2, a centered crop
            may overlap less than ``min_overlap``.
        num_local (int): Number of local crops. Defaults to 4.
        global_scale (tuple[float, float]): Area of a global crop as a fraction of the image's
            area. Defaults to (0.25, 1).
        local_scale (tuple[float, float]): Area of a local crop as a fraction of the image's area.
            Defaults to (0.05, 0.1).
        min_overlap (tuple[float, float]): Minimum overlap of two global crops, and of a local and
            a global crop, as fractions of the image's area. Defaults to (0.02, 0.01).
        max_draws (int): Draws before the centered crop is used. Defaults to 50.

    Raises:
        ValueError: If a size or a range is invalid.
    """

    ratio = (3 / 4, 4 / 3)  # width / height

    @check_arguments(
        global_size=whole(1),
        local_size=whole(1),
        num_global=whole(1),
        num_local=whole(0),
        global_scale=_PAIR,
        local_scale=_PAIR,
        min_overlap=_PAIR,
        max_draws=whole(1),
    )
    def __init__(
        self,
        global_size: int = 224,
        local_size: int = 96,
        num_global: int = 2,
        num_local: int = 4,
        global_scale: Sequence[float] = (0.25, 1.0),
        local_scale: Sequence[float] = (0.05, 0.1),
        min_overlap: Sequence[float] = (0.02, 0.01),
        max_draws: int = 50,
    ) -> None:
        for name, scale, overlap in (
            ('global_scale', global_scale, min_overlap[0]),
            ('local_scale', local_scale, min_overlap[1]),
        ):
            if not 0 < scale[0] <= scale[1] <= 1:
                raise ValueError(f'{name} must be 0 < low <= high <= 1, got {tuple(scale)}')
            if not 0 <= overlap < scale[1]:
                raise ValueError(
                    f'min_overlap must be in [0, {scale[1]}), the largest {name}, got {overlap}'
                )
        self.global_size = global_size
        self.local_size = local_size
        self.num_global = num_global
        self.num_local = num_local
        self.global_scale = tuple(global_scale)
        self.local_scale = tuple(local_scale)
        self.min_overlap = tuple(min_overlap)
        self.max_draws = max_draws

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw boxes, and crop and resize the image.

        Args:
            image (np.ndarray): Pixels, shape (H, W, 3), uint8.
            rng (np.random.Generator): Source of randomness.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Global crops (2, G, G, 3), local crops (L, S, S, 3),
            both uint8, and boxes x1, y1, x2, y2 in pixels of the image, global crops first, shape
            (2 + L, 4), float32; see :class:`.BranchCrops`.
        """
        boxes = self.draw_boxes(image.shape[0], image.shape[1], rng)
        return (*self.cut(image, boxes), torch.tensor(boxes, dtype=torch.float32))

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the global and of the local crops of an image."""
        return (
            (self.num_global, self.global_size, self.global_size, 3),
            (self.num_local, self.local_size, self.local_size, 3),
        )

    def cut(
        self,
        image: np.ndarray,
        boxes: Sequence[Box],
        out: Optional[tuple[Tensor, Tensor]] = None,
    ) -> tuple[Tensor, Tensor]:
        """Crop and resize the image.

        Args:
            image (np.ndarray): Pixels, shape (H, W, 3), uint8.
            boxes (Sequence[Box]): As of :meth:`draw_boxes`.
            out (tuple[Tensor, Tensor], optional): Where to write the crops. Defaults to None, new
                memory.

        Returns:
            tuple[Tensor, Tensor]: Global crops (2, G, G, 3) and local crops (L, S, S, 3), uint8.
        """
        if out is None:
            out = tuple(torch.empty(shape, dtype=torch.uint8) for shape in self.shapes)
        resize_boxes(image, boxes, out)
        return out

    def is_large_enough(self, height: int, width: int) -> bool:
        """Whether no crop of an image of this size in pixels has to be enlarged."""
        area = height * width
        return all(
            area * scale[0] * self.ratio[0] >= size**2
            for scale, size in (
                (self.global_scale, self.global_size),
                (self.local_scale, self.local_size),
            )
        )

    def is_enough(self, height: int, width: int) -> bool:
        """Call :meth:`is_large_enough`; deprecated name."""
        warn_renamed('MultiCrop.is_enough', 'MultiCrop.is_large_enough')
        return self.is_large_enough(height, width)

    def draw_boxes(self, height: int, width: int, rng: np.random.Generator) -> list[Box]:
        """Draw the boxes of all crops, global ones first.

        Args:
            height (int): Height of the image in pixels.
            width (int): Width of the image in pixels.
            rng (np.random.Generator): Source of randomness.

        Returns:
            list[Box]: x1, y1, x2, y2 of each crop.
        """
        boxes: list[Box] = []
        for index in range(self.num_global + self.num_local):
            kind = 0 if index < self.num_global else 1
            scale = (self.global_scale, self.local_scale)[kind]
            earlier = boxes[: self.num_global]
            box = self._draw(height, width, scale, self.min_overlap[kind], earlier, rng)
            if box is None:
                # A global crop must leave room for the overlaps of the later crops.
                least = max(self.min_overlap) if kind == 0 else self.min_overlap[1]
                box = self._centered(height, width, scale[1], least, earlier)
            boxes.append(box)
        return boxes

    def _draw(
        self,
        height: int,
        width: int,
        scale: tuple[float, ...],
        overlap: float,
        earlier: list[Box],
        rng: np.random.Generator,
    ) -> Optional[Box]:
        least = overlap * height * width
        for _ in range(self.max_draws):
            box = self._random_box(height, width, scale, rng)
            if box is not None and _overlaps(box, earlier, least):
                return box
        return None

    def _random_box(
        self, height: int, width: int, scale: tuple[float, ...], rng: np.random.Generator
    ) -> Optional[Box]:
        share, shape, left, top = rng.random(4).tolist()  # one call, since each is slow
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        aspect = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** shape
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < w <= width and 0 < h <= height):
            return None
        x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
        return x, y, x + w, y + h

    def _centered(
        self, height: int, width: int, scale: float, overlap: float, earlier: list[Box]
    ) -> Box:
        """Box centered in the intersection of the global crops, as large as ``scale`` allows.

        Its aspect ratio is in the allowed range, unless the area would then be below ``overlap``:
        an image of 1 x 100 pixels has no such box.
        """
        x1, y1, x2, y2 = 0, 0, width, height
        for box in earlier:
            x1, y1 = max(x1, box[0]), max(y1, box[1])
            x2, y2 = min(x2, box[2]), min(y2, box[3])
        w, h, area = x2 - x1, y2 - y1, height * width
        shaped = _shrunk(min(w, h * self.ratio[1]), min(h, w / self.ratio[0]), scale * area)
        if shaped[0] * shaped[1] > overlap * area:
            w, h = shaped
        else:
            w, h = _shrunk(w, h, scale * area)
        x, y = (x1 + x2 - w) // 2, (y1 + y2 - h) // 2
        return x, y, x + w, y + h


def _overlaps(box: Box, others: list[Box], least: float) -> bool:
    """Whether a box has more than ``least`` pixels in common with each of the others."""
    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width <= 0 or height <= 0 or width * height <= least:
            return False
    return True


def _shrunk(width: float, height: float, area: float) -> tuple[int, int]:
    """Shrink sides to about ``area`` at most with the same aspect ratio; rounded up to pixels."""
    factor = min(1.0, math.sqrt(area / (width * height)))
    return math.ceil(width * factor), math.ceil(height * factor)
