"""Global and local crops that overlap, with their boxes."""
import math
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from cotap_mm.registry import TRANSFORMS

Box = Tuple[int, int, int, int]


@TRANSFORMS.register_module()
class MultiCrop:
    """Crops of one image, on uint8 pixels.

    Every crop overlaps every earlier global crop by more than a share of the image's
    area, so that each pair has patches to compare. No flip: boxes then map linearly.
    A crop that finds no such place in ``max_draws`` draws is centred inside the global
    crops' common area (the released implementation draws without an end).

    Source: CoTAP, https://arxiv.org/abs/2509.09429, and Leopart for the boxes.

    Args:
        global_size (int): Side of a global crop in pixels. Defaults to 224.
        local_size (int): Side of a local crop in pixels. Defaults to 96.
        num_local (int): Local crops. Defaults to 4; global crops are always 2.
        global_scale (tuple[float, float]): Share of the image's area. Defaults to (0.25, 1).
        local_scale (tuple[float, float]): Likewise. Defaults to (0.05, 0.1).
        min_overlap (tuple[float, float]): Share of the image's area that two global
            crops, and any other crop and a global one, have in common at least.
            Defaults to (0.02, 0.01).
        max_draws (int): Draws before the fallback. Defaults to 50.

    Raises:
        ValueError: If a size or a range is out of order.
    """

    num_global = 2
    ratio = (3 / 4, 4 / 3)

    def __init__(self, global_size: int = 224, local_size: int = 96, num_local: int = 4,
                 global_scale: Sequence[float] = (0.25, 1.0),
                 local_scale: Sequence[float] = (0.05, 0.1),
                 min_overlap: Sequence[float] = (0.02, 0.01), max_draws: int = 50) -> None:
        for name, scale in (('global_scale', global_scale), ('local_scale', local_scale)):
            if not 0 < scale[0] <= scale[1] <= 1:
                raise ValueError(f'{name} must be 0 < low <= high <= 1, got {tuple(scale)}')
        if min(global_size, local_size) < 1 or num_local < 0 or max_draws < 1:
            raise ValueError('global_size, local_size and max_draws must be >= 1 and num_local '
                             f'>= 0, got {global_size}, {local_size}, {max_draws}, {num_local}')
        self.global_size = global_size
        self.local_size = local_size
        self.num_local = num_local
        self.global_scale = tuple(global_scale)
        self.local_scale = tuple(local_scale)
        self.min_overlap = tuple(min_overlap)
        self.max_draws = max_draws

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Tuple[Tensor, Tensor, Tensor]:
        """Draw boxes and cut them out.

        Args:
            image (np.ndarray): Pixels, shape (H, W, 3), uint8.
            rng (np.random.Generator): Source of randomness.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Global crops (2, 3, G, G), local crops
            (L, 3, S, S), both uint8, and boxes x1, y1, x2, y2 in pixels of the image,
            shape (2 + L, 4), float32.
        """
        boxes = self.draw_boxes(image.shape[0], image.shape[1], rng)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)  # (3, H, W)
        global_crops = [self._cut(pixels, box, self.global_size) for box in boxes[:2]]
        local_crops = [self._cut(pixels, box, self.local_size) for box in boxes[2:]]
        empty = torch.empty(0, 3, self.local_size, self.local_size, dtype=torch.uint8)
        return (torch.stack(global_crops), torch.stack(local_crops) if local_crops else empty,
                torch.tensor(boxes, dtype=torch.float32))

    def draw_boxes(self, height: int, width: int, rng: np.random.Generator) -> List[Box]:
        """Boxes of all crops, global ones first, for an image of ``height`` x ``width``."""
        boxes: List[Box] = []
        for index in range(self.num_global + self.num_local):
            is_global = index < self.num_global
            scale = self.global_scale if is_global else self.local_scale
            overlap = self.min_overlap[0 if is_global else 1] * height * width
            boxes.append(self._draw(height, width, scale, overlap, boxes[:self.num_global], rng))
        return boxes

    def _draw(self, height: int, width: int, scale: Tuple[float, ...], overlap: float,
              earlier: List[Box], rng: np.random.Generator) -> Box:
        for _ in range(self.max_draws):
            box = self._random_box(height, width, scale, rng)
            if box is not None and all(_common_area(box, other) > overlap for other in earlier):
                return box
        return self._fallback(height, width, scale, earlier)

    def _random_box(self, height: int, width: int, scale: Tuple[float, ...],
                    rng: np.random.Generator) -> Optional[Box]:
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < w <= width and 0 < h <= height):
            return None
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        return x, y, x + w, y + h

    @staticmethod
    def _fallback(height: int, width: int, scale: Tuple[float, ...], earlier: List[Box]) -> Box:
        """The image's centre, or the centre of what the global crops have in common."""
        x1, y1, x2, y2 = 0, 0, width, height
        for box in earlier:
            x1, y1 = max(x1, box[0]), max(y1, box[1])
            x2, y2 = min(x2, box[2]), min(y2, box[3])
        side = math.sqrt(scale[1])  # as large as allowed, of the image's aspect
        w = min(max(round(width * side), 1), x2 - x1)
        h = min(max(round(height * side), 1), y2 - y1)
        x, y = x1 + (x2 - x1 - w) // 2, y1 + (y2 - y1 - h) // 2
        return x, y, x + w, y + h

    @staticmethod
    def _cut(pixels: Tensor, box: Box, size: int) -> Tensor:
        x1, y1, x2, y2 = box
        return TF.resize(pixels[:, y1:y2, x1:x2], [size, size], antialias=True)


def _common_area(a: Box, b: Box) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
