"""Images of a folder, and nothing that links or ``..`` lead to outside of it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from cotap_mm.datasets.sources.files import BadImage, ImageList, SizePredicate
from cotap_mm.files.atomic_write import printable


class ConfinedImages:
    """The images of a list whose files lie in its folder, links followed to their ends.

    A file is looked at again when it is read: it may have become a link since.

    Args:
        source (ImageList): The images.

    Attributes:
        left_out (list): Names of the images that lie elsewhere.

    Raises:
        ValueError: If no image is left.
    """

    def __init__(self, source: ImageList) -> None:
        self.source = source
        self._root = os.path.realpath(source.root)
        folder_of = lru_cache(maxsize=4096)(os.path.realpath)
        self._indices: list[int] = []
        self.left_out: list[str] = []
        for index, name in enumerate(source.names):
            folder, file = os.path.split(source.root / name)
            path = os.path.join(folder_of(folder), file)
            if self._is_inside(os.path.realpath(path) if os.path.islink(path) else path):
                self._indices.append(index)
            else:
                self.left_out.append(name)
        if not self._indices:
            raise ValueError(
                f'all {len(source)} images of {source.root} lie outside of it, where '
                'links or the list lead; give the folder that they lie in, or '
                '--follow-links'
            )

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Name of an image relative to the folder."""
        return self.source.name(self._indices[index])

    def read(self, index: int, is_large_enough: Optional[SizePredicate] = None) -> Any:
        """Pixels (H, W, 3), uint8.

        Raises:
            BadImage: If the image cannot be decoded, or lies elsewhere by now.
        """
        name = self.name(index)
        if not self._is_inside(os.path.realpath(self.source.root / name)):
            raise BadImage(f'{printable(name)} has become a link to a file outside of the folder')
        return self.source.read(self._indices[index], is_large_enough)

    def _is_inside(self, path: str) -> bool:
        return Path(self._root) in Path(path).parents
