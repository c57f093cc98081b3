"""Read label masks: one class index for each pixel, from any lossless image file."""

from __future__ import annotations

import stat
import warnings
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IGNORE_LABEL = 255
#: Largest label file in bytes; the masks of public data sets are below 1 MB.
LARGEST_FILE = 2**28
_ONE_CHANNEL = ('1', 'L', 'P', 'I')  # and I;16, I;16B, ...
_WITH_ALPHA = ('LA', 'PA')
_LOSSY = ('JPEG', 'JPEG2000', 'MPO')


def read_label(path: Union[str, Path], image_size: Optional[tuple[int, int]] = None) -> Tensor:
    """Read the class indices of a label mask.

    The values are the pixels of a one-channel file of 1, 8, 16 or 32 bits, or the palette
    indices (not the colors) of a palette file. Every protocol reads labels through this
    function, so a mask means the same in all of them.

    Args:
        path (str | Path): PNG, TIFF, BMP or another lossless format.
        image_size (tuple, optional): Height and width of the labeled image. The mask may be
            larger or smaller, but must have the same shape. Defaults to None (not checked).

    Returns:
        Tensor: int64, shape (H, W). 255 usually means "ignored".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a regular file, is empty, damaged, too large, of a lossy
            format, has several channels or fractions, or does not fit the image.
    """
    _check_file(Path(path))
    with warnings.catch_warnings():
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                _check_kind(path, image)
                values = np.array(image)
                mode = image.mode
        except LabelError:
            raise
        # Decoders raise many types on damaged files, SyntaxError and struct.error among them.
        except Exception as error:
            raise LabelError(
                f'label mask {path} cannot be read ({type(error).__name__}: {error}); '
                'write it again, or remove it together with its image'
            ) from error
    if mode in _WITH_ALPHA:
        values = _opaque(path, values)
    label = torch.from_numpy(values.astype(np.int64))
    if image_size is not None:
        _check_size(path, (label.shape[0], label.shape[1]), image_size)
    return label


class LabelError(ValueError):
    """A label mask that cannot be used; the message names the file."""


def _check_file(path: Path) -> None:
    """Refuse what would block or fill the memory before it is opened."""
    try:
        found = path.stat()
    except OSError as error:
        raise FileNotFoundError(f'label mask {path} cannot be opened: {error.strerror}') from error
    if not stat.S_ISREG(found.st_mode):
        raise LabelError(f'label mask {path} must be a regular file, got a folder, pipe or device')
    if not found.st_size:
        raise LabelError(f'label mask {path} is empty (0 bytes); write it again')
    if found.st_size > LARGEST_FILE:
        raise LabelError(
            f'label mask {path} has {found.st_size / 2**20:.0f} MiB, the limit is '
            f'{LARGEST_FILE // 2**20} MiB; cut the image and its mask into tiles'
        )


def _check_kind(path: Union[str, Path], image: Image.Image) -> None:
    if image.format in _LOSSY:
        raise LabelError(
            f'label mask {path} is a {image.format} file, which changes the class '
            'indices; save masks as PNG'
        )
    if image.mode == 'F':
        raise LabelError(
            f'label mask {path} has floating-point values; class indices must be '
            'integers: save the mask as an 8-bit or 16-bit PNG'
        )
    if image.mode.split(';')[0] not in (*_ONE_CHANNEL, *_WITH_ALPHA):
        raise LabelError(
            f'label mask {path} must have one channel of class indices, got a color image '
            f'(mode {image.mode}, {len(image.getbands())} channels); replace each color by the '
            'index of its class and save the mask as a one-channel PNG'
        )
    if getattr(image, 'n_frames', 1) > 1:
        raise LabelError(f'label mask {path} must have one frame, got {image.n_frames}')


def _opaque(path: Union[str, Path], values: np.ndarray) -> np.ndarray:
    """The first of two channels, where the second says that all of it counts."""
    if values[..., 1].min() < 255:
        raise LabelError(
            f'label mask {path} has transparent pixels, which have no class; save it '
            'without an alpha channel, ignored pixels as 255'
        )
    return values[..., 0]


def _check_size(path: Union[str, Path], found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Same shape, to a pixel of rounding."""
    scale = [have / want for have, want in zip(found, wanted)]
    if abs(scale[0] - scale[1]) > 1.5 * max(scale) / min(*found, *wanted):
        raise LabelError(
            f'label mask {path} is {found[1]} x {found[0]} pixels and its image '
            f'{wanted[1]} x {wanted[0]}; a mask must have the shape of its image. Is it of another '
            'image, or was one of them rotated?'
        )
