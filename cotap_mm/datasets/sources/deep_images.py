"""Read the values of images with more than 8 bits, with Pillow or OpenCV."""

from __future__ import annotations

import io
from typing import Optional

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _SAMPLE_FORMAT, _NO_DATA = 256, 257, 258, 277, 339, 42113
_TIFF_STARTS = (b'II*\0', b'MM\0*')
_SIGNED = 2  # SampleFormat


class _CvImage(Image.Image):
    """A TIFF that OpenCV can read and Pillow cannot; holds only size and tags."""

    format = 'TIFF'


def open_unusual_tiff(data: bytes, max_bytes: int) -> Optional[Image.Image]:
    """Open a TIFF that Pillow does not support: three bands of floats, float64, ...

    Args:
        data (bytes): Content of the file.
        max_bytes (int): Largest size of the decoded values.

    Returns:
        Image: Size and tags, for :func:`deep_values`; None if the file is not a TIFF.

    Raises:
        ValueError: If the number of bands is not supported, or the values are too large.
    """
    if data[:4] not in _TIFF_STARTS:
        return None
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bands = tags.get(_SAMPLES, 1)
    if bands not in (1, 3, 4):
        raise ValueError(
            f'a TIFF of {bands} bands; 1, 3 or 4 are supported: select three of them, e.g. '
            'with gdal_translate -b 3 -b 2 -b 1'
        )
    image = _CvImage()
    image._size, image._mode = (tags[_WIDTH], tags[_HEIGHT]), 'F'
    size = tags[_WIDTH] * tags[_HEIGHT] * bands * tags.get(_BITS, (8,))[0] // 8
    if size > max_bytes:
        raise ValueError(
            f'a TIFF of {size:,} bytes exceeds the limit of {max_bytes:,}; set '
            'COTAP_MAX_IMAGE_PIXELS to change it'
        )
    image.tag_v2 = tags
    return image


def is_deep(image: Image.Image) -> bool:
    """Whether values have more than 8 bits or a sign; call it before they are loaded."""
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


def deep_values(image: Image.Image, data: bytes) -> Optional[np.ndarray]:
    """Read the stored values of an image, without scaling.

    Args:
        image (Image): The opened image.
        data (bytes): Content of its file.

    Returns:
        np.ndarray: Shape (H, W) or (H, W, 3); None if OpenCV cannot read them.

    Raises:
        Exception: Of any type, if the file is damaged.
    """
    if not isinstance(image, _CvImage):
        tags = getattr(image, 'tag_v2', {})
        is_unsigned = _sample_format(image) != _SIGNED and tags.get(_BITS) == (32,)
        image.load()  # raises if the file is damaged
        if image.mode.startswith('F') or image.mode.startswith('I'):
            values = np.asarray(image)
            return values.view(np.uint32) if is_unsigned and image.mode == 'I' else values
        if image.mode == 'L':
            return np.asarray(image).view(np.int8)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape[:2] != image.size[::-1]:
        if isinstance(image, _CvImage):
            raise ValueError(
                'a TIFF that neither Pillow nor OpenCV can read; convert it to 16-bit integers '
                'or 32-bit floats'
            )
        return None
    if values.ndim == 3:
        values = values[..., 2::-1] if values.shape[2] >= 3 else values[..., 0]  # BGR(A) -> RGB
    return values


def no_data_value(image: Image.Image) -> Optional[float]:
    """Value that marks pixels without data, from GDAL's tag; None if there is none."""
    try:
        return float(str(getattr(image, 'tag_v2', {}).get(_NO_DATA, '')).strip(' \0'))
    except ValueError:
        return None


def _sample_format(image: Image.Image) -> int:
    value = getattr(image, 'tag_v2', {}).get(_SAMPLE_FORMAT, 1)
    return value[0] if isinstance(value, tuple) else value
