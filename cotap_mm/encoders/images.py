"""Images of any type as pixels: paths, folders, PIL images, arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from cotap_mm.datasets.sources.decoding import read_image, read_image_bytes, to_rgb
from cotap_mm.datasets.sources.files import EncodedImages
from cotap_mm.datasets.sources.open import open_images
from cotap_mm.datasets.sources.packed import PACKED_SUFFIX
from cotap_mm.datasets.sources.shards.paths import is_shards
from cotap_mm.datasets.sources.value_range import Option, Samples, sample
from cotap_mm.ops.sampling import evenly_spaced

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


class Pictures(EncodedImages):
    """A sequence of images of any types, of which those with more than 8 bits share one range.

    Args:
        images (sequence): Paths, PIL images, arrays and tensors, see :func:`to_pixels`.
        value_range: See :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``, one range
            derived from all images.
    """

    def __init__(self, images: Sequence[Picture], value_range: Option = 'auto') -> None:
        names = [
            str(image) if isinstance(image, (str, Path)) else f'image {index}'
            for index, image in enumerate(images)
        ]
        super().__init__(names, value_range)
        self.images = images

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image file."""
        return read_image_bytes(self.images[index])

    def title(self, index: int) -> str:
        """Return the path of an image, or its position, for messages."""
        return self.names[index]

    def may_be_deep(self, index: int) -> bool:
        """Whether an image can have more than 8 bits."""
        image = self.images[index]
        if isinstance(image, Image.Image):
            return image.mode.startswith(('I', 'F'))
        return isinstance(image, (str, Path)) and super().may_be_deep(index)

    def some_deep(self, most: int) -> list[int]:
        """Indices of evenly spaced images for which :meth:`may_be_deep`, at most ``most``."""
        deep = [index for index in range(len(self)) if self.may_be_deep(index)]
        return [deep[i] for i in evenly_spaced(len(deep), most)]

    def samples(self, index: int) -> Optional[Samples]:
        """Sample the values of an image; None if it has 8 bits."""
        image = self.images[index]
        return (
            sample(np.asarray(image)) if isinstance(image, Image.Image) else super().samples(index)
        )

    def pixels(self, index: int) -> Tensor:
        """Convert one image to pixels; see :func:`to_pixels`."""
        image = self.images[index]
        if isinstance(image, (str, Path)):
            return to_pixels(self.read(index))
        return to_pixels(to_rgb(image, self.found_range()) if self.may_be_deep(index) else image)


class SourcePictures:
    """The images of a source as pixels.

    Args:
        source (ImageSource): Such as :class:`~cotap_mm.datasets.ImageList`.
    """

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def title(self, index: int) -> str:
        """Return the name of an image, for messages."""
        return self.source.name(index)

    def pixels(self, index: int) -> Tensor:
        """Read one image as pixels (3, H, W)."""
        return to_pixels(self.source.read(index))


def open_pictures(images: Any, value_range: Option = 'auto') -> Union[Pictures, SourcePictures]:
    """Open images of any type as a sequence.

    Args:
        images: An image, a sequence of images, a batch, the path of a folder or packed file, or
            an image source; see :meth:`Encoder.encode`.
        value_range: See :class:`~cotap_mm.datasets.ImageList`.

    Raises:
        FileNotFoundError: If a folder has no images.
        ValueError: If there are no images.
    """
    if isinstance(images, (str, Path)) and (
        Path(images).is_dir() or Path(images).suffix == PACKED_SUFFIX or is_shards(images)
    ):
        return SourcePictures(open_images(images, value_range=value_range))
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4:
        images = list(images)
    if isinstance(images, (list, tuple)):
        if not len(images):
            raise ValueError('there must be at least one image, got none')
        return Pictures(images, value_range)
    if callable(getattr(images, 'name', None)) and hasattr(images, 'read'):
        return SourcePictures(images)
    return Pictures([images], value_range)


def stacked_batches(
    pictures: Union[Pictures, SourcePictures], size: Optional[Size], batch_size: int
) -> Iterator[Tensor]:
    """Convert images to batches of pixels of one size; each image is read when it is needed.

    Args:
        pictures (Pictures | SourcePictures): See :func:`open_pictures`.
        size (int | tuple, optional): See :func:`resize_image`.
        batch_size (int): Images per batch.

    Yields:
        Tensor: RGB pixels, shape (B, 3, H, W).

    Raises:
        TypeError: If an image has another type, or its pixels are not uint8.
        ValueError: If the images differ in size, or ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be positive, got {batch_size}')
    first: Optional[tuple[int, ...]] = None
    for start in range(0, len(pictures), batch_size):
        batch = []
        for index in range(start, min(start + batch_size, len(pictures))):
            image = resize_image(pictures.pixels(index), size)
            shape = tuple(image.shape[1:])
            first = first or shape
            if shape != first:
                raise ValueError(
                    f'images of one batch must have one size, got {[first, shape]}; pass '
                    f'size=..., or encode them one by one ({pictures.title(index)} differs)'
                )
            batch.append(image)
        yield torch.stack(batch)


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
