"""Convert images of any type to one batch of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from cotap_mm.datasets.sources.files import read_image, to_rgb

Picture = Union[str, Path, Image.Image, np.ndarray, Tensor]
Size = Union[int, tuple[int, int]]


def resize_image(image: Tensor, size: Optional[Size]) -> Tensor:
    """Resize uint8 pixels (3, H, W), bilinear with antialias.

    Args:
        image (Tensor): Pixels, shape (3, H, W).
        size (int | tuple, optional): Side of a square, or (height, width), in pixels;
            None keeps the image unchanged.

    Returns:
        Tensor: Pixels, shape (3, height, width), uint8.

    Raises:
        TypeError: If the pixels are not uint8.
    """
    if size is None:
        return image
    if image.dtype != torch.uint8:
        raise TypeError(f'images must be uint8 pixels 0-255, got {image.dtype}')
    target = [size, size] if isinstance(size, int) else list(size)
    if list(image.shape[-2:]) == target:
        return image
    return TF.resize(image, target, antialias=True)


def stack_images(images: Union[Picture, Sequence[Picture]], size: Optional[Size]) -> Tensor:
    """Convert images to one batch of pixels.

    Args:
        images: An image, a sequence of images, or a batch; see :meth:`Encoder.encode`.
        size (int | tuple, optional): See :func:`resize_image`.

    Returns:
        Tensor: RGB pixels, shape (B, 3, H, W).

    Raises:
        TypeError: If an image has another type, or its pixels are not uint8.
        ValueError: If there are no images, or they differ in size.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
        pixels = list(images)
    elif isinstance(images, (list, tuple)):
        pixels = [to_pixels(image) for image in images]
    else:
        pixels = [to_pixels(images)]
    if not pixels:
        raise ValueError('there must be at least one image, got none')
    pixels = [resize_image(image, size) for image in pixels]
    shapes = sorted({tuple(image.shape[1:]) for image in pixels})
    if len(shapes) > 1:
        raise ValueError(
            f'images of one batch must have one size, got {shapes[:3]}; pass size=..., or '
            'encode them one by one'
        )
    return torch.stack(pixels)


def to_pixels(image: Picture) -> Tensor:
    """Convert a path, PIL image, array (H, W, 3) or tensor (3, H, W) to RGB pixels (3, H, W).

    Raises:
        TypeError: If the image has another type.
        ValueError: If an array or tensor has another shape.
    """
    if isinstance(image, (str, Path)):
        image = read_image(str(image))
    if isinstance(image, Image.Image):
        image = to_rgb(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'an array must have shape (H, W, 3), got {image.shape}')
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f'a tensor must have shape (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}'
            )
        return image
    raise TypeError(
        f'an image must be a path, a PIL image, an array or a tensor, got {type(image).__name__}'
    )
