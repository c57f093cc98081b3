"""Feature files: choose the format by the suffix, and read what :func:`.embed` has written."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, Union

import numpy as np

from . import npz, parquet, zarr_folder

#: Suffix -> module that reads and writes this format.
FORMATS: dict[str, ModuleType] = {'.npz': npz, '.parquet': parquet, '.zarr': zarr_folder}


class Features:
    """Features of images in a file; arrays are read when they are asked for.

    ::

        features = cotap_mm.read_features('features.npz')
        features['cls']            # (N, C)
        features.ids[0]            # name of the image of the first row

    Attributes:
        path (Path): The file.
        ids (list[str]): Name of the image of each row, relative to the folder of the images.
        skipped (dict[str, str]): Name of each image that could not be read -> why.
        provenance (dict): Images, weights, settings and versions.
    """

    def __init__(self, path: Path, ids: list[str], about: dict[str, Any]) -> None:
        self.path, self.ids = path, ids
        self.skipped, self.provenance = dict(about['skipped']), dict(about['provenance'])
        self._shapes = {name: tuple(shape) for name, shape in about['shapes'].items()}

    @property
    def names(self) -> list[str]:
        """Names of the features: ``cls``, ``mean``, ``patches``."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a feature, (N, C) or (N, C, h, w), without reading it."""
        return len(self), *self._shapes[name]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a feature.

        Args:
            name (str): ``'cls'`` or ``'mean'``, shape (N, C), or ``'patches'``, (N, C, h, w).

        Raises:
            KeyError: If the file does not contain it.
        """
        if name not in self._shapes:
            raise KeyError(f'{self.path} has {", ".join(self.names)}, not {name!r}')
        return format_of(self.path).read_feature(self.path, name)

    def __repr__(self) -> str:
        return (
            f'Features({str(self.path)!r}: {len(self)} images, {", ".join(self.names)}, '
            f'{len(self.skipped)} skipped)'
        )


def read_features(path: Union[str, Path]) -> Features:
    """Open a file that :func:`cotap_mm.embed` has written.

    Args:
        path (str | Path): ``*.npz``, ``*.parquet`` or ``*.zarr``.

    Returns:
        Features: Ids and provenance; arrays are read when they are asked for.

    Raises:
        FileNotFoundError: If it does not exist.
        ImportError: If reading the format needs a package that is not installed.
        ValueError: If it is not such a file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'feature file {path} does not exist; write it with cotap embed')
    ids, about = format_of(path).read_about(path)
    try:
        return Features(path, ids, json.loads(about))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{path} is not a feature file ({error})') from error


def format_of(path: Path) -> ModuleType:
    """Module of the format of a file, by its suffix.

    Raises:
        ValueError: If the suffix is unknown.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f'a feature file must end in {", ".join(FORMATS)}, got {path.name!r}')
    return FORMATS[path.suffix]
