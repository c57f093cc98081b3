"""Decode JPEGs as Pillow does, but faster, and into memory of the caller's choice.

simplejpeg, if it is installed, decodes into given memory. Otherwise torchvision decodes into
memory of its own. Both contain libjpeg-turbo, with the settings of Pillow. The first image that a
process decodes is decoded by both; simplejpeg is used only if all pixels are equal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Optional

import numpy as np
import torch
from mmengine.logging import print_log
from torchvision.io import ImageReadMode, decode_jpeg

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

#: ``new_pixels(height, width)`` returns memory for an image, shape (H, W, 3), uint8, contiguous.
NewPixels = Callable[[int, int], np.ndarray]
#: ``keep(data, height, width)`` returns what stands for the image; None if it has to be decoded.
Keep = Callable[[bytes, int, int], Optional[np.ndarray]]

_new_pixels: ContextVar[Optional[NewPixels]] = ContextVar('new_pixels', default=None)
_keep: ContextVar[Optional[Keep]] = ContextVar('keep', default=None)
_is_same: dict[Any, bool] = {}  # simplejpeg -> whether it decodes as torchvision does


@contextmanager
def decoded_into(new_pixels: Optional[NewPixels]) -> Iterator[None]:
    """Context in which images are decoded into given memory, where the decoder can do that.

    Args:
        new_pixels (callable, optional): Called before an image is decoded; what it returns is
            returned as the image, or left in any state if that image was decoded elsewhere. None
            for new memory.
    """
    token = _new_pixels.set(new_pixels)
    try:
        yield
    finally:
        _new_pixels.reset(token)


@contextmanager
def kept_encoded(keep: Optional[Keep]) -> Iterator[None]:
    """Context in which JPEGs need not be decoded, since something else will decode them.

    Only for readers that return what :func:`decode_rgb` returns, and do not look at the pixels.

    Args:
        keep (callable, optional): Called instead of the decoder. None decodes everything.
    """
    token = _keep.set(keep)
    try:
        yield
    finally:
        _keep.reset(token)


def decode_rgb(data: bytes, height: int, width: int) -> Optional[np.ndarray]:
    """Decode a JPEG of three channels.

    Args:
        data (bytes): Content of a file.
        height (int): Height in pixels, as its header says.
        width (int): Width in pixels.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8; None on errors, so that Pillow reports them.
    """
    keep = _keep.get()
    kept = None if keep is None else keep(data, height, width)
    if kept is not None:
        return kept
    if simplejpeg is not None and _is_same.get(simplejpeg, True):
        pixels = _decode_into(data, height, width)
        if pixels is not None and (simplejpeg in _is_same or _compare(data, pixels)):
            return pixels
    return _decode_by_torchvision(data)


def _decode_into(data: bytes, height: int, width: int) -> Optional[np.ndarray]:
    new_pixels = _new_pixels.get()
    shape = height, width, 3
    pixels = np.empty(shape, np.uint8) if new_pixels is None else new_pixels(height, width)
    try:
        # Strict, as by default: it also rejects what libjpeg only warns about.
        decoded = simplejpeg.decode_jpeg(data, 'RGB', buffer=pixels.reshape(-1))
    except ValueError:
        return None
    return pixels if decoded.shape == shape else None


def _decode_by_torchvision(data: bytes) -> Optional[np.ndarray]:
    try:
        pixels = decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        )  # (3, H, W), channels innermost
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy()


def _compare(data: bytes, pixels: np.ndarray) -> bool:
    """Whether torchvision decodes an image to the same pixels; warn if not."""
    expected = _decode_by_torchvision(data)
    if expected is None:
        return True  # compared again with the next image
    _is_same[simplejpeg] = np.array_equal(pixels, expected)
    if not _is_same[simplejpeg]:
        print_log(
            f'simplejpeg {getattr(simplejpeg, "__version__", "")} decodes to other pixels than '
            'torchvision and is not used; install another version for faster loading',
            logger='current',
            level=logging.WARNING,
        )
    return _is_same[simplejpeg]
