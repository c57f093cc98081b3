"""Image source confined to its folder."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from cotap_mm.datasets.sources.files import BadImage, ImageList, SizePredicate
from cotap_mm.files.atomic_write import printable


class ConfinedImages:
    """Images of a list that are inside its folder after all symbolic links are resolved.

    A file is checked again when it is read, because it may have been replaced by a link.

    Args:
        source (ImageList): Images to filter.

    Attributes:
        skipped (list): Names of the images that are outside of the folder.

    Raises:
        ValueError: If all images are outside of the folder.
    """

    def __init__(self, source: ImageList) -> None:
        self.source = source
        self._root = os.path.realpath(source.root)
        folder_of = lru_cache(maxsize=4096)(os.path.realpath)
        self._indices: list[int] = []
        self.skipped: list[str] = []
        for index, name in enumerate(source.names):
            folder, file = os.path.split(source.root / name)
            path = os.path.join(folder_of(folder), file)
            if self._is_inside(os.path.realpath(path) if os.path.islink(path) else path):
                self._indices.append(index)
            else:
                self.skipped.append(name)
        if not self._indices:
            raise ValueError(
                f'all {len(source)} images of {source.root} are links or paths to files outside '
                'of it; pass the folder that contains them, or --follow-links'
            )

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Return the name of an image, relative to the folder."""
        return self.source.name(self._indices[index])

    def read(self, index: int, is_large_enough: Optional[SizePredicate] = None) -> Any:
        """Read an image as uint8 pixels (H, W, 3).

        Raises:
            BadImage: If the image cannot be decoded, or is now a link out of the folder.
        """
        name = self.name(index)
        if not self._is_inside(os.path.realpath(self.source.root / name)):
            raise BadImage(
                f'{printable(name)} has been replaced by a link to a file outside of the folder'
            )
        return self.source.read(self._indices[index], is_large_enough)

    def _is_inside(self, path: str) -> bool:
        return Path(self._root) in Path(path).parents
