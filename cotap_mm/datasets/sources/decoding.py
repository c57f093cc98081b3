"""Decode image files to 8-bit RGB pixels.

Memory: at most :data:`MAX_IMAGE_BYTES` for the file and 20 bytes per pixel (lossless WebP; 8 to
13 for other formats) for at most :data:`MAX_IMAGE_PIXELS`. Larger files and images are rejected
before they are read. The environment variables ``COTAP_MAX_IMAGE_BYTES`` and
``COTAP_MAX_IMAGE_PIXELS`` change both limits.
"""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageOps, UnidentifiedImageError

from cotap_mm.deprecation import renamed_argument
from cotap_mm.files.atomic_write import UnusableFile, printable, read_regular

from .deep_images import deep_values, is_deep, no_data_value, open_unusual_tiff
from .formats import decodable_formats
from .jpeg.decoder import decode_rgb
from .jpeg.header import START, plain_size
from .protocol import SizePredicate
from .value_range import (
    Option,
    Samples,
    ValueRange,
    check_option,
    find_range,
    full_range,
    is_usual,
    sample,
    to_8_bits,
)

MAX_IMAGE_BYTES = int(os.environ.get('COTAP_MAX_IMAGE_BYTES', 1 << 30))
MAX_IMAGE_PIXELS = int(os.environ.get('COTAP_MAX_IMAGE_PIXELS', 178_956_970))  # Pillow's limit
if MAX_IMAGE_PIXELS > 178_956_970:
    Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS // 2  # Pillow rejects twice this number
_STRIP = 1 << 20  # pixels converted at a time
_ORIENTATION = 0x0112  # EXIF tag
_warned: set = set()


class BadImage(Exception):
    """An image file that cannot be decoded."""


class UnreachableImage(BadImage):
    """An image file that could not be read at all, perhaps only for a while."""


@renamed_argument('enough', 'is_large_enough')
def read_image(
    path: Union[str, Path],
    is_large_enough: Optional[SizePredicate] = None,
    value_range: Option = 'auto',
) -> np.ndarray:
    """Read any image file as RGB.

    Grayscale, CMYK and palette images are converted, transparency is dropped, and the camera's
    orientation (EXIF) is applied. Only the first image of a multi-image file is read. Values of
    more than 8 bits are scaled, see :mod:`cotap_mm.datasets.sources.value_range`.

    Args:
        path (str | Path): The file.
        is_large_enough (callable, optional): ``is_large_enough(height, width)`` returns whether
            an image of that size is large enough. If so, a JPEG is decoded at an eighth, a
            quarter or a half of its sides, which saves most of the work. Defaults to None, full
            size.
        value_range: Values that become 0 and 255 if there are more than 8 bits; see
            :class:`ImageList`. Defaults to ``'auto'``, the range of this file.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If the file is truncated, too large, or not an image.
        UnreachableImage: If the file does not exist or the disk fails.
    """
    return decode_image(read_image_bytes(path), is_large_enough, path, value_range)


def read_image_bytes(path: Union[str, Path]) -> bytes:
    """Read the content of an image file; raises the same errors as :func:`read_image`."""
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except UnusableFile as error:
        raise BadImage(str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: not a valid file name
        raise UnreachableImage(f'{printable(path)}: {type(error).__name__}: {error}') from error


def decode_image(
    data: bytes,
    is_large_enough: Optional[SizePredicate],
    name: Union[str, Path],
    value_range: Option = 'auto',
) -> np.ndarray:
    """Decode the content of an image file.

    Args:
        data (bytes): The content.
        is_large_enough (callable, optional): See :func:`cotap_mm.datasets.read_image`.
        name (str | Path): Name of the image, for messages.
        value_range: See :class:`cotap_mm.datasets.ImageList`; has no effect on images with 8
            bits. Defaults to ``'auto'``, the range of this file.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If the content cannot be decoded, or has too many pixels.
        ValueError: If ``value_range`` has the wrong form.
    """
    value_range = check_option(value_range)
    try:
        size, factor = plain_size(data), 0
        if size is not None and size[0] * size[1] <= MAX_IMAGE_PIXELS:
            factor = _factor(*size, is_large_enough)
            pixels = decode_rgb(data, *size) if factor == 1 else None
            if pixels is not None:
                return pixels
        with _open(data) as image:
            if image.format == 'JPEG':
                factor = factor or _factor(image.height, image.width, is_large_enough)
                if size is None and factor == 1 and image.mode == 'RGB' and not _is_rotated(image):
                    pixels = decode_rgb(data, image.height, image.width)
                    if pixels is not None:
                        return pixels
                _reduce(image, factor)
            return _pixels(image, data, name, value_range)
    except UnidentifiedImageError as error:
        raise BadImage(f'{printable(name)}: not an image, or an unsupported format') from error
    # Decoders raise many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        raise BadImage(f'{printable(name)}: {type(error).__name__}: {error}') from error


class Header(NamedTuple):
    """Size of an image as displayed, whether its values have more than 8 bits, and Pillow's mode.

    Modes are, for example, 'RGB', 'L' (grayscale), 'P' (palette), 'CMYK', and 'RGBA'.
    """

    height: int
    width: int
    is_deep: bool
    mode: str = 'RGB'


def image_header(data: bytes) -> Header:
    """Read size and bit depth from a file's content without decoding it.

    Raises:
        Exception: Of any type, if it is not an image.
    """
    with _open(data) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return Header(height, width, is_deep(image), image.mode)


def sample_image(data: bytes) -> Optional[Samples]:
    """Sample the values of an image for :func:`find_range`; None if it has 8 bits.

    Raises:
        Exception: Of any type, if it cannot be decoded.
    """
    with _open(data) as image:
        if not is_deep(image):
            return None
        missing = no_data_value(image)
        values = deep_values(image, data)
        return None if values is None else sample(values, missing)


def to_rgb(image: Image.Image, value_range: Option = 'auto') -> np.ndarray:
    """Convert a PIL image to pixels of shape (H, W, 3), uint8; see :func:`decode_image`."""
    if image.mode.startswith(('I', 'F')):
        values = np.asarray(image)
        return to_8_bits(
            values, _choose_range(sample(values), 'an image', check_option(value_range))
        )
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // max(width, 1))
    for top in range(0, height, rows):  # a conversion holds several copies
        box = (0, top, width, min(top + rows, height))
        strip = image if box == (0, 0, width, height) else image.crop(box)
        if strip.mode == 'P':  # PIL warns if a palette's transparency is dropped directly
            strip = strip.convert('RGBA')
        out[top : top + rows] = np.asarray(strip if strip.mode == 'RGB' else strip.convert('RGB'))
    return out


def _open(data: bytes) -> Image.Image:
    try:
        # Pillow would ask the plugins in turn, which takes longer than to read a JPEG's header.
        formats = ['JPEG'] if data.startswith(START) else decodable_formats()
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        image = open_unusual_tiff(data, 8 * MAX_IMAGE_PIXELS)
        if image is None:
            raise
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f'{width} x {height} pixels exceed the limit of {MAX_IMAGE_PIXELS:,}; set '
            'COTAP_MAX_IMAGE_PIXELS to change it'
        )
    return image


def _factor(height: int, width: int, is_large_enough: Optional[SizePredicate]) -> int:
    """By how much the sides of a JPEG may be divided while it is decoded."""
    if is_large_enough is not None:
        for factor in (8, 4, 2):
            if is_large_enough(height // factor, width // factor):
                return factor
    return 1


def _reduce(image: Image.Image, factor: int) -> None:
    """Let the JPEG decoder skip frequencies."""
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))


def _pixels(
    image: Image.Image, data: bytes, name: Union[str, Path], value_range: Option
) -> np.ndarray:
    if is_deep(image):
        missing = no_data_value(image)
        values = deep_values(image, data)
        if values is not None:
            chosen = _choose_range(sample(values, missing), name, value_range)
            if values.ndim == 2 or chosen != ValueRange((0,), (65535,)):
                scaled = to_8_bits(values, chosen)
                return (
                    to_rgb(_rotate_like(Image.fromarray(scaled), image))
                    if _is_rotated(image)
                    else scaled
                )
            # Three bands that use the full 16 bits: Pillow's own conversion.
    image.load()
    return to_rgb(_upright(image))


def _choose_range(values: Samples, name: Union[str, Path], value_range: Option) -> ValueRange:
    if value_range is None:
        return full_range(values)
    if isinstance(value_range, ValueRange):
        return value_range
    chosen = find_range([values])
    if not is_usual(chosen) and not _warned:
        _warned.add('range')
        print_log(
            f'{printable(name)} has more than 8 bits and uses only a part of the range of its '
            f'type: {chosen} become 0..255. Other such files are scaled in the same way; set '
            'value_range=(low, high) for another range',
            logger='current',
            level=logging.WARNING,
        )
    return chosen


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # only the EXIF data is damaged, not the pixels
        return 1


def _is_rotated(image: Image.Image) -> bool:
    return _orientation(image) != 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if _is_rotated(image) else image
    except Exception:  # only the EXIF data is damaged, not the pixels
        return image


def _rotate_like(pixels: Image.Image, original: Image.Image) -> Image.Image:
    """Apply the orientation of the file to pixels that were decoded without it."""
    pixels.getexif()[_ORIENTATION] = original.getexif()[_ORIENTATION]
    return _upright(pixels)
