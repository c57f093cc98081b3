"""Images of one branch of the training, their neighbors, and the bad ones among them."""

from __future__ import annotations

from typing import Optional, Union

import numpy as np
import torch
from mmengine.logging import print_log

from cotap_mm.datasets.neighbors.file import open_neighbors
from cotap_mm.datasets.neighbors.rows import NeighborRows, UnreachableRows
from cotap_mm.datasets.sources.decoding import BadImage
from cotap_mm.datasets.sources.names import names_of
from cotap_mm.datasets.sources.protocol import ImageSource, SizePredicate, prepare
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable

from .opened import open_source
from .read_with_retry import PATIENCE, read_with_retry, retry
from .workers import ReadingSigns, shared_zeros, warning_level

_BAD_ALLOWED = 2  # in any data set, however small
_MAX_TRIES = 20


class BranchSource:
    """Images of one branch and their neighbors.

    The flags of bad images are stored in memory that the loader's workers share, so that bad
    images are counted over all workers, and each is decoded and logged only once.

    Args:
        source (dict | ImageSource): The images, or a config of an image source.
        neighbors (str): Neighbor file.
        num_neighbors (int): Number of nearest images to draw the positive from.
        max_bad_fraction (float): Fraction of bad images above which an error is raised.
        is_large_enough (callable, optional): See :meth:`.ImageSource.read`. Defaults to None.
        patience (float): Seconds to wait while all images are unreachable. Defaults to 3600.

    Raises:
        ValueError: If there are too few images, or the neighbors do not fit them.
    """

    def __init__(
        self,
        source: Union[dict, ImageSource],
        neighbors: str,
        num_neighbors: int,
        max_bad_fraction: float,
        is_large_enough: Optional[SizePredicate] = None,
        patience: float = PATIENCE,
    ) -> None:
        self.source: ImageSource = open_source(source) if isinstance(source, dict) else source
        if len(self.source) < 2:
            raise ValueError(f'a branch needs at least 2 images, got {len(self.source)}')
        prepare(self.source)
        self.neighbors = self._neighbors(neighbors, num_neighbors)
        self.max_bad_fraction = max_bad_fraction
        self.is_large_enough = is_large_enough
        self.patience = patience
        self.signs = ReadingSigns()
        self.is_bad = shared_zeros(len(self.source), torch.bool)

    def _neighbors(self, path: str, num_neighbors: int) -> Union[NeighborRows, np.ndarray]:
        """Open the neighbors, unless the source was handed on with them."""
        *read_from, neighbors = getattr(self.source, 'loaded_neighbors', None) or [None]
        self.source.loaded_neighbors = None  # type: ignore[attr-defined]  # not for the workers
        if read_from == [path, num_neighbors]:
            return neighbors
        return open_neighbors(path, names_of(self.source), num_neighbors)

    def neighbors_of(self, index: int) -> np.ndarray:
        """Neighbors of an image, nearest first, shape (k,); waits while their file is unreachable.

        Args:
            index (int): Index of the image.

        Raises:
            UserError: If the file was damaged, or has been unreachable for too long.
        """
        if not isinstance(self.neighbors, NeighborRows):
            return self.neighbors[index]
        rows = self.neighbors
        return retry(
            lambda: rows[index],
            UnreachableRows,
            rows.is_reachable,
            'neighbors',
            self.signs,
            self.patience,
        )

    @property
    def bad_images(self) -> list[str]:
        """Names of the images that could not be decoded so far."""
        return [self.source.name(i) for i in self.is_bad.nonzero().flatten().tolist()]

    @property
    def being_read(self) -> list[str]:
        """Names of the images that workers are reading."""
        return [self.source.name(i) for i in self.signs.being_read]

    def draw_pair(
        self,
        index: int,
        rng: np.random.Generator,
        decoded: Optional[dict[int, np.ndarray]] = None,
    ) -> list[tuple[int, np.ndarray]]:
        """Read an image and one of its neighbors, drawn uniformly.

        A bad neighbor is replaced by another neighbor, a bad image by another image.

        Args:
            index (int): Index of the image.
            rng (np.random.Generator): Source of randomness.
            decoded (dict[int, np.ndarray], optional): Pixels of images that have been read for the
                same sample; those that are read now are added. Defaults to None.

        Returns:
            list[tuple[int, np.ndarray]]: Index and pixels of the image and of its positive.

        Raises:
            UserError: If too many images are bad.
        """
        decoded = {} if decoded is None else decoded

        def read(index: int) -> Optional[np.ndarray]:
            if index not in decoded:
                pixels = self._read(index)
                if pixels is None:
                    return None
                decoded[index] = pixels
            return decoded[index]

        for _ in range(_MAX_TRIES):
            image = read(index)
            if image is not None:
                for other in rng.permutation(self.neighbors_of(index)).tolist():
                    positive = read(other)
                    if positive is not None:
                        return [(index, image), (other, positive)]
            index = int(rng.integers(len(self.source)))
        raise self._too_many()

    def _read(self, index: int) -> Optional[np.ndarray]:
        if self.is_bad[index]:
            return None
        try:
            with self.signs.reading(index):
                return read_with_retry(
                    self.source, index, self.is_large_enough, self.signs, self.patience
                )
        except BadImage as error:
            self.is_bad[index] = True
            print_log(
                f'cannot decode {error}; using another image instead',
                logger='current',
                level=warning_level(),
            )
            if self.is_bad.sum() > max(_BAD_ALLOWED, self.max_bad_fraction * len(self.source)):
                raise self._too_many() from error
            return None

    def _too_many(self) -> UserError:
        names = self.bad_images
        shown = '\n  '.join(map(printable, names[:50]))
        more = f'\n  and {len(names) - 50} more, see the log' if len(names) > 50 else ''
        return UserError(
            f'{len(names)} of {len(self.source)} images cannot be decoded; '
            f'max_bad_fraction={self.max_bad_fraction} allows '
            f'{int(max(_BAD_ALLOWED, self.max_bad_fraction * len(self.source)))}. Repair them, or '
            f'remove them and rebuild the neighbors:\n  {shown}{more}'
        )
