"""Global and local crops that overlap, with their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.registry import TRANSFORMS

Box = tuple[int, int, int, int]


@TRANSFORMS.register_module()
class MultiCrop:
    """Crops of one image, on uint8 pixels.

    Every crop overlaps every earlier global crop by more than a share of the image's
    area, so that each pair has patches to compare. No flip: boxes then map linearly.
    A crop that finds no such place in ``max_draws`` draws is centred inside the global
    crops' common area, or, for the first one, the image (the released implementation
    draws without an end).

    Source: CoTAP, https://arxiv.org/abs/2509.09429, and Leopart for the boxes.

    Args:
        global_size (int): Side of a global crop in pixels. Defaults to 224.
        local_size (int): Side of a local crop in pixels. Defaults to 96.
        num_global (int): Global crops. Defaults to 2. With more than 2, a centred crop
            may overlap less than ``min_overlap``.
        num_local (int): Local crops. Defaults to 4.
        global_scale (tuple[float, float]): Share of the image's area. Defaults to (0.25, 1).
        local_scale (tuple[float, float]): Likewise. Defaults to (0.05, 0.1).
        min_overlap (tuple[float, float]): Share of the image's area that two global
            crops, and any other crop and a global one, have in common at least.
            Defaults to (0.02, 0.01).
        max_draws (int): Draws before the fallback. Defaults to 50.

    Raises:
        ValueError: If a size or a range is out of order.
    """

    ratio = (3 / 4, 4 / 3)  # width / height

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
        for name, value, least in (
            ('global_size', global_size, 1),
            ('local_size', local_size, 1),
            ('num_global', num_global, 1),
            ('num_local', num_local, 0),
            ('max_draws', max_draws, 1),
        ):
            if value < least:
                raise ValueError(f'{name} must be at least {least}, got {value}')
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
        """Draw boxes and cut them out.

        Args:
            image (np.ndarray): Pixels, shape (H, W, 3), uint8.
            rng (np.random.Generator): Source of randomness.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Global crops (2, G, G, 3), local crops
            (L, S, S, 3), both uint8, and boxes x1, y1, x2, y2 in pixels of the image,
            global crops first, shape (2 + L, 4), float32.
        """
        boxes = self.draw_boxes(image.shape[0], image.shape[1], rng)
        pixels = torch.from_numpy(np.ascontiguousarray(image))  # (H, W, 3)
        global_crops = [
            self._cut(pixels, box, self.global_size) for box in boxes[: self.num_global]
        ]
        local_crops = [self._cut(pixels, box, self.local_size) for box in boxes[self.num_global :]]
        empty = torch.empty(0, self.local_size, self.local_size, 3, dtype=torch.uint8)
        return (
            torch.stack(global_crops),
            torch.stack(local_crops) if local_crops else empty,
            torch.tensor(boxes, dtype=torch.float32),
        )

    def is_enough(self, height: int, width: int) -> bool:
        """Whether no crop of an image of this size is enlarged, in pixels."""
        area = height * width
        return all(
            area * scale[0] * self.ratio[0] >= size**2
            for scale, size in (
                (self.global_scale, self.global_size),
                (self.local_scale, self.local_size),
            )
        )

    def draw_boxes(self, height: int, width: int, rng: np.random.Generator) -> list[Box]:
        """Boxes of all crops, global ones first, for an image of ``height`` x ``width``."""
        boxes: list[Box] = []
        for index in range(self.num_global + self.num_local):
            kind = 0 if index < self.num_global else 1
            scale = (self.global_scale, self.local_scale)[kind]
            earlier = boxes[: self.num_global]
            box = self._draw(height, width, scale, self.min_overlap[kind], earlier, rng)
            if box is None:
                # A global crop must itself leave room for the overlaps of the later ones.
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
            if box is not None and all(_common_area(box, other) > least for other in earlier):
                return box
        return None

    def _random_box(
        self, height: int, width: int, scale: tuple[float, ...], rng: np.random.Generator
    ) -> Optional[Box]:
        share, shape, left, top = rng.random(4).tolist()  # one call, since each takes long
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
        """Centred in what the global crops have in common, as large as ``scale`` allows.

        Of an allowed aspect, unless the area would then fall below ``overlap``: an
        image of 1 x 100 pixels has no such box.
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

    @staticmethod
    def _cut(pixels: Tensor, box: Box, size: int) -> Tensor:
        x1, y1, x2, y2 = box
        # Straight on uint8: torchvision's resize takes the way through float, several times slower.
        # In this order PyTorch knows that channels are innermost, and leaves them there.
        part = pixels[None, y1:y2, x1:x2].permute(0, 3, 1, 2)
        return F.interpolate(part, size=(size, size), mode='bilinear', antialias=True)[0].permute(
            1, 2, 0
        )


def _common_area(a: Box, b: Box) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _shrunk(width: float, height: float, area: float) -> tuple[int, int]:
    """Sides in whole pixels, rounded up, of the same aspect and at most about ``area``."""
    factor = min(1.0, math.sqrt(area / (width * height)))
    return math.ceil(width * factor), math.ceil(height * factor)
