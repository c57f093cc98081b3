"""Errors of neighbor files that do not fit, or are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_REBUILD = (
    "rebuild it with cotap neighbors --overwrite; if neighbors='auto' built it, delete it and "
    'start again'
)


class OtherImages(ValueError):
    """A neighbor file was built for other images."""


def damaged(path: Path, reason: object) -> ValueError:
    """Return the error of a file that is damaged or not a neighbor file."""
    return ValueError(f'{path} is damaged or not a neighbor file ({reason}); {_REBUILD}')


def rebuild(path: Path) -> str:
    """What a user types to build a file again."""
    return f'rebuild with cotap neighbors --images IMAGES --out {path.name}'


def check_count(path: Path, built: int, count: int, more: str = '') -> None:
    """Raise OtherImages if a file was built for another number of images."""
    if built != count:
        raise OtherImages(
            f'{path.name} was built for {built} images, but the folder has {count}{more}; '
            f'{rebuild(path)}'
        )


def check_shape(path: Path, indices: np.ndarray, count: int) -> None:
    """Raise a ValueError unless indices are integers of shape (count, k)."""
    if indices.ndim != 2 or len(indices) != count or indices.dtype.kind not in 'iu':
        raise ValueError(
            f'{path.name} must contain integers of shape ({count}, k), got '
            f'{indices.dtype} {indices.shape}; {rebuild(path)}'
        )


def check_range(path: Path, indices: np.ndarray, count: int) -> None:
    """Raise a ValueError unless all indices are from 0 to count - 1."""
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        raise ValueError(
            f'{path.name} must contain indices from 0 to {count - 1}, got {indices.min()} to '
            f'{indices.max()}; {rebuild(path)}'
        )


def check_columns(path: Path, usable: int, wanted: int) -> None:
    """Raise a ValueError if a file has fewer than ``wanted`` neighbors per image."""
    if usable < wanted:
        raise ValueError(
            f'{path.name} has {usable} neighbors per image, {wanted} are needed; '
            f'{rebuild(path)} --num-neighbors {wanted}'
        )


def check_readable(readable: object, count: int) -> int:
    """Return the number of readable images of a file's meta data.

    Raises:
        ValueError: If it is not an integer from 2 to ``count``.
    """
    if type(readable) is not int or not 2 <= readable <= count:
        raise ValueError(
            f'num_readable must be an integer from 2 to {count}, got {str(readable)[:50]}'
        )
    return readable
