"""Read label masks (one class index per pixel, any lossless image file) and check labels."""

from __future__ import annotations

import stat
import warnings
from pathlib import Path
from typing import Callable, Optional, Union

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
    indices (not the colors) of a palette file. All protocols read labels with this
    function, so a mask means the same in each of them.

    Args:
        path (str | Path): PNG, TIFF, BMP or another lossless format.
        image_size (tuple, optional): Height and width of the labeled image. The mask may be
            larger or smaller, but must have the same shape. Defaults to None (not checked).

    Returns:
        Tensor: int64, shape (H, W). 255 usually means "ignored".

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a regular file, is empty, damaged, too large, of a lossy
            format, has several channels or floating-point values, or does not fit the image.
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


def check_label_range(
    labels: Tensor,
    num_classes: int,
    ignored: Optional[int] = IGNORE_LABEL,
    find_file: Optional[Callable[[], str]] = None,
) -> None:
    """Check that all labels are class indices or ignored.

    Args:
        labels (Tensor): Integers, any shape.
        num_classes (int): Number of classes.
        ignored (int, optional): Value of pixels without a class; None if there is no such value.
            Defaults to 255.
        find_file (Callable, optional): Returns the path of the labels, for the message; '' if
            there is none. Defaults to None.

    Raises:
        ValueError: If a label is out of range.
    """
    if not labels.numel():
        return
    # Replacing ignored labels by a valid class takes a third of the time of selecting the others.
    known = labels if ignored is None else labels.masked_fill(labels == ignored, 0)
    lowest, highest = (int(value) for value in known.aminmax())
    if lowest < 0 or highest >= num_classes:
        path = find_file() if find_file else ''
        allowed = f'0..{num_classes - 1}' + ('' if ignored is None else f' or {ignored} (ignored)')
        wrong = highest if highest >= num_classes else lowest
        raise ValueError(
            f'labels must be {allowed}, got {wrong}{f" in {path}" if path else ""}; '
            'check num_classes and the masks'
        )


class LabelError(ValueError):
    """A label mask that cannot be used; the message names the file."""


def _check_file(path: Path) -> None:
    """Reject files whose opening would block or fill the memory."""
    try:
        status = path.stat()
    except OSError as error:
        raise FileNotFoundError(f'label mask {path} cannot be opened: {error.strerror}') from error
    if not stat.S_ISREG(status.st_mode):
        raise LabelError(f'label mask {path} must be a regular file, got a folder, pipe or device')
    if not status.st_size:
        raise LabelError(f'label mask {path} is empty (0 bytes); write it again')
    if status.st_size > LARGEST_FILE:
        raise LabelError(
            f'label mask {path} has {status.st_size / 2**20:.0f} MiB, the limit is '
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
    """Drop the alpha channel, which must be opaque everywhere."""
    if values[..., 1].min() < 255:
        raise LabelError(
            f'label mask {path} has transparent pixels, which have no class; save it '
            'without an alpha channel, ignored pixels as 255'
        )
    return values[..., 0]


def _check_size(path: Union[str, Path], mask: tuple[int, int], image: tuple[int, int]) -> None:
    """Check that mask and image have the same aspect ratio, up to a pixel of rounding."""
    scale = [mask_side / image_side for mask_side, image_side in zip(mask, image)]
    if abs(scale[0] - scale[1]) > 1.5 * max(scale) / min(*mask, *image):
        raise LabelError(
            f'label mask {path} is {mask[1]} x {mask[0]} pixels and its image '
            f'{image[1]} x {image[0]}; a mask must have the shape of its image. Does it belong to '
            'another image, or was one of them rotated?'
        )
