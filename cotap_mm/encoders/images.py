"""Pictures of any kind -> one batch of pixels."""

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
            None keeps the image.

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


def stack_pictures(images: Union[Picture, Sequence[Picture]], size: Optional[Size]) -> Tensor:
    """One batch of pixels.

    Args:
        images: A picture, a sequence of pictures, or a batch; see :meth:`Encoder.encode`.
        size (int | tuple, optional): As in :func:`resize_image`.

    Returns:
        Tensor: RGB pixels, shape (B, 3, H, W).

    Raises:
        TypeError: If a picture is of another kind, or its pixels are not uint8.
        ValueError: If there is none, or pictures differ in size.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
        pixels = list(images)
    elif isinstance(images, (list, tuple)):
        pixels = [to_pixels(picture) for picture in images]
    else:
        pixels = [to_pixels(images)]
    if not pixels:
        raise ValueError('there must be at least one image, got none')
    pixels = [resize_image(picture, size) for picture in pixels]
    shapes = sorted({tuple(picture.shape[1:]) for picture in pixels})
    if len(shapes) > 1:
        raise ValueError(
            f'images of one batch must have one size, got {shapes[:3]}; pass '
            'size=..., or encode them one by one'
        )
    return torch.stack(pixels)


def to_pixels(picture: Picture) -> Tensor:
    """RGB pixels (3, H, W) of a path, PIL image, array (H, W, 3) or tensor (3, H, W).

    Raises:
        TypeError: If it is none of these.
        ValueError: If an array or tensor has another shape.
    """
    if isinstance(picture, (str, Path)):
        picture = read_image(str(picture))
    if isinstance(picture, Image.Image):
        picture = to_rgb(picture)
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f'an array must have the shape (H, W, 3), got {picture.shape}')
        return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError(
                'a tensor must have the shape (3, H, W) or (B, 3, H, W), got '
                f'{tuple(picture.shape)}'
            )
        return picture
    raise TypeError(
        f'an image must be a path, a PIL image, an array or a tensor, got {type(picture).__name__}'
    )
