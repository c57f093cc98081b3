"""Random resized crop of an image and its label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from torchvision.transforms import RandomResizedCrop

from cotap_mm.registry import TRANSFORMS
from cotap_mm.rules import SIDES, check_arguments, number, sequence


@TRANSFORMS.register_module()
class RandomResizedCropSeg(BaseTransform):
    """Crop a random rectangle and resize it, labels with nearest-neighbor interpolation.

    MMSegmentation crops without resizing, while protocols for frozen dense features resize.
    The rectangle is sampled by torchvision.

    Required keys: ``img`` and the keys in ``seg_fields``. Modified keys: these and
    ``img_shape``.

    Args:
        scale (int | tuple[int, int]): Height and width of the result in pixels.
        area (Sequence[float]): Range of the crop's area, as a share of the image's area. Defaults
            to (0.64, 1.0).
        ratio (Sequence[float]): Range of width over height. Defaults to (3/4, 4/3).
    """

    @check_arguments(
        scale=SIDES,
        area=sequence('two numbers', number(), 2),
        ratio=sequence('two numbers > 0', number(0, above=True), 2),
    )
    def __init__(
        self,
        scale: Union[int, tuple[int, int]],
        area: Sequence[float] = (0.64, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        self.scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
        self.area, self.ratio = list(area), list(ratio)
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f'area must satisfy 0 < low <= high <= 1, got {tuple(area)}')
        if ratio[0] > ratio[1]:
            raise ValueError(f'ratio must satisfy low <= high, got {tuple(ratio)}')

    @cache_randomness
    def _box(self, image: np.ndarray) -> tuple[int, int, int, int]:
        size = torch.empty(3, *image.shape[:2], device='meta')
        return RandomResizedCrop.get_params(size, self.area, self.ratio)

    def transform(self, results: dict) -> dict:
        """Crop and resize the image and its label maps."""
        top, left, height, width = self._box(results['img'])
        size = (self.scale[1], self.scale[0])
        for name in ('img', *results.get('seg_fields', [])):
            part = results[name][top : top + height, left : left + width]
            results[name] = mmcv.imresize(
                part, size, interpolation='bilinear' if name == 'img' else 'nearest'
            )
        results['img_shape'] = results['img'].shape[:2]
        return results
