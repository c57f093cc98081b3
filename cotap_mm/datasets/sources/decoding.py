"""Content of an image file -> RGB pixels of 8 bits.

Memory: at most :data:`MAX_IMAGE_BYTES` for the file and 20 bytes a pixel (lossless WebP; 8 to
13 for other formats) for at most :data:`MAX_IMAGE_PIXELS`. Larger files and images are
refused before they are read. The environment variables ``COTAP_MAX_IMAGE_BYTES`` and
``COTAP_MAX_IMAGE_PIXELS`` change both limits.
"""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Union

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from cotap_mm.files.atomic_write import printable

from .formats import decodable_formats
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
    Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS // 2  # it refuses twice as many
_STRIP = 1 << 20  # pixels that are converted at a time
_ORIENTATION = 0x0112  # EXIF tag
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _SAMPLE_FORMAT, _NO_DATA = 256, 257, 258, 277, 339, 42113
_TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_SIGNED = 2  # SampleFormat
SizePredicate = Optional[Callable[[int, int], bool]]
_said: set = set()


class BadImage(Exception):
    """An image file that cannot be decoded."""


class UnreachableImage(BadImage):
    """An image file that could not even be read, perhaps for a while only."""


def decode_image(
    data: bytes, enough: SizePredicate, name: Union[str, Path], value_range: Option = 'auto'
) -> np.ndarray:
    """Decode a file's content.

    Args:
        data (bytes): The content.
        enough (callable, optional): See :func:`cotap_mm.datasets.read_image`.
        name (str | Path): For messages.
        value_range: See :class:`cotap_mm.datasets.ImageList`; of images with 8 bits it
            changes nothing. Defaults to ``'auto'``, the range of this file.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If there are none, or too many.
        ValueError: If ``value_range`` has the wrong form.
    """
    value_range = check_option(value_range)
    try:
        with _opened(data) as image:
            is_reduced = _reduce(image, enough)
            if (
                image.format == 'JPEG'
                and image.mode == 'RGB'
                and not is_reduced
                and not _is_turned(image)
            ):
                pixels = _decode_whole_jpeg(data)
                if pixels is not None:
                    return pixels
            return _pixels(image, data, name, value_range)
    except UnidentifiedImageError as error:
        raise BadImage(
            f'{printable(name)}: not an image, or of a format that is not read'
        ) from error
    # Decoders raise many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        raise BadImage(f'{printable(name)}: {type(error).__name__}: {error}') from error


class Header(NamedTuple):
    """Size of an image as it is shown, and whether its values have more than 8 bits."""

    height: int
    width: int
    is_deep: bool


def image_header(data: bytes) -> Header:
    """What a file's content states without being decoded.

    Raises:
        Exception: Of any type, if it is not an image.
    """
    with _opened(data) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return Header(height, width, _is_deep(image))


def sample_image(data: bytes) -> Optional[Samples]:
    """Values of an image for :func:`find_range`; None if it has 8 bits.

    Raises:
        Exception: Of any type, if it cannot be decoded.
    """
    with _opened(data) as image:
        if not _is_deep(image):
            return None
        missing = _no_data_value(image)
        values = _deep_values(image, data)
        return None if values is None else sample(values, missing)


def to_rgb(image: Image.Image, value_range: Option = 'auto') -> np.ndarray:
    """Pixels of a PIL image as (H, W, 3) uint8; see :func:`decode_image`."""
    if image.mode.startswith(('I', 'F')):
        return _scaled(sample(np.asarray(image)), np.asarray(image), 'an image', value_range)
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // max(width, 1))
    for top in range(0, height, rows):  # a conversion holds several copies
        box = (0, top, width, min(top + rows, height))
        strip = image if box == (0, 0, width, height) else image.crop(box)
        if strip.mode == 'P':  # PIL warns when a palette's transparency is dropped directly
            strip = strip.convert('RGBA')
        out[top : top + rows] = np.asarray(strip if strip.mode == 'RGB' else strip.convert('RGB'))
    return out


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=decodable_formats())
    except UnidentifiedImageError:
        image = _odd_tiff(data)
        if image is None:
            raise
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f'{width} x {height} pixels are more than the {MAX_IMAGE_PIXELS:,} that '
            'are read; COTAP_MAX_IMAGE_PIXELS changes the limit'
        )
    return image


class _CvImage(Image.Image):
    """A TIFF of a kind that Pillow does not know and OpenCV does; only size and tags."""

    format = 'TIFF'


def _odd_tiff(data: bytes) -> Optional[Image.Image]:
    """Floats or signed integers of three bands, float64, ...; None if it is no TIFF."""
    if data[:4] not in _TIFF_STARTS[:2]:
        return None
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bands = tags.get(_SAMPLES, 1)
    if bands not in (1, 3, 4):
        raise ValueError(
            f'a TIFF of {bands} bands; 1, 3 or 4 are read: choose three of them, e.g. '
            'with gdal_translate -b 3 -b 2 -b 1'
        )
    image = _CvImage()
    image._size, image._mode = (tags[_WIDTH], tags[_HEIGHT]), 'F'
    size = tags[_WIDTH] * tags[_HEIGHT] * bands * tags.get(_BITS, (8,))[0] // 8
    if size > 8 * MAX_IMAGE_PIXELS:
        raise ValueError(
            f'a TIFF of {size:,} bytes, more than the {8 * MAX_IMAGE_PIXELS:,} that '
            'are read; COTAP_MAX_IMAGE_PIXELS changes the limit'
        )
    image.tag_v2 = tags
    return image


def _reduce(image: Image.Image, enough: SizePredicate) -> bool:
    """Let the JPEG decoder skip frequencies; other formats do not know how."""
    if enough is None or image.format != 'JPEG':
        return False
    width, height = image.size
    for factor in (8, 4, 2):
        if enough(height // factor, width // factor):
            image.draft(None, (width // factor, height // factor))
            return True
    return False


def _decode_whole_jpeg(data: bytes) -> Optional[np.ndarray]:
    """What Pillow's decoder gives, a fifth faster; None for Pillow to say what is wrong."""
    try:
        pixels = decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        )  # (3, H, W), channels innermost
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _pixels(
    image: Image.Image, data: bytes, name: Union[str, Path], value_range: Option
) -> np.ndarray:
    if _is_deep(image):
        missing = _no_data_value(image)
        values = _deep_values(image, data)
        if values is not None:
            found = _chosen(sample(values, missing), name, value_range)
            if values.ndim == 2 or found != ValueRange((0,), (65535,)):
                scaled = to_8_bits(values, found)
                return (
                    to_rgb(_turned_as(Image.fromarray(scaled), image))
                    if _is_turned(image)
                    else scaled
                )
            # Three bands that fill their 16 bits: as Pillow has converted them.
    image.load()
    return to_rgb(_upright(image))


def _is_deep(image: Image.Image) -> bool:
    """Whether values have more than 8 bits, or a sign; to be asked before they are loaded."""
    if image.mode.startswith(('I', 'F')):
        return True
    tiles = getattr(image, 'tile', None)
    args = tiles[0].args if tiles else ''
    raw = str(args[0] if isinstance(args, tuple) and args else args)
    return (
        ';16' in raw
        and raw.startswith(('LA', 'RGB'))
        or (image.mode == 'L' and _sample_format(image) == _SIGNED)
    )


def _deep_values(image: Image.Image, data: bytes) -> Optional[np.ndarray]:
    """Values as they are stored, shape (H, W) or (H, W, 3); None if OpenCV cannot read them."""
    if not isinstance(image, _CvImage):
        tags = getattr(image, 'tag_v2', {})
        is_unsigned = _sample_format(image) != _SIGNED and tags.get(_BITS) == (32,)
        image.load()  # raises what is wrong with the file
        if image.mode.startswith('F') or image.mode.startswith('I'):
            values = np.asarray(image)
            return values.view(np.uint32) if is_unsigned and image.mode == 'I' else values
        if image.mode == 'L':
            return np.asarray(image).view(np.int8)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape[:2] != image.size[::-1]:
        if isinstance(image, _CvImage):
            raise ValueError(
                'a TIFF of a kind that neither Pillow nor OpenCV reads; convert it '
                'to 16-bit integers or 32-bit floats'
            )
        return None
    if values.ndim == 3:
        values = values[..., 2::-1] if values.shape[2] >= 3 else values[..., 0]  # BGR(A) -> RGB
    return values


def _sample_format(image: Image.Image) -> int:
    found = getattr(image, 'tag_v2', {}).get(_SAMPLE_FORMAT, 1)
    return found[0] if isinstance(found, tuple) else found


def _no_data_value(image: Image.Image) -> Optional[float]:
    """What GDAL has noted for pixels without a value."""
    try:
        return float(str(getattr(image, 'tag_v2', {}).get(_NO_DATA, '')).strip(' \0'))
    except ValueError:
        return None


def _chosen(values: Samples, name: Union[str, Path], value_range: Option) -> ValueRange:
    if value_range is None:
        return full_range(values)
    if isinstance(value_range, ValueRange):
        return value_range
    found = find_range([values])
    if not is_usual(found) and not _said:
        _said.add('range')
        print_log(
            f'{printable(name)} has more than 8 bits and fills a part of its type: '
            f'{found} become 0..255. So it is done for each such file; value_range=(low, '
            'high) sets another range',
            logger='current',
            level=logging.WARNING,
        )
    return found


def _scaled(values: Samples, pixels: np.ndarray, name: str, value_range: Option) -> np.ndarray:
    return to_8_bits(pixels, _chosen(values, name, check_option(value_range)))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # pixels are fine, only the note on the camera is damaged
        return 1


def _is_turned(image: Image.Image) -> bool:
    return _orientation(image) != 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if _is_turned(image) else image
    except Exception:  # as above
        return image


def _turned_as(pixels: Image.Image, original: Image.Image) -> Image.Image:
    """Apply the orientation of the file to pixels that were decoded without it."""
    pixels.getexif()[_ORIENTATION] = original.getexif()[_ORIENTATION]
    return _upright(pixels)
