"""Draw what the interactive viewer shows: features of a few images, for each click."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.files.atomic_write import printable
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.canvas import Pixels
from cotap_mm.visualization.figures.clusters import cluster_overlay, joint_clusters, match_clusters
from cotap_mm.visualization.figures.grid import Scale
from cotap_mm.visualization.figures.overlays import foreground_overlay
from cotap_mm.visualization.figures.pca import pca_maps
from cotap_mm.visualization.figures.prototypes import attention_overlay
from cotap_mm.visualization.figures.similarity import similarity_panels
from cotap_mm.visualization.report.image_set import encode_images, in_batches, read_images

from .lru_cache import MemoryLRU
from .sheet import Point, Sheet

MOST_SHOWN = 24  # images at a time
MOST_CLUSTERS = 24
MOST_BYTES = 2**30  # of cached features, maps and photographs


class Drawing(NamedTuple):
    """Sheet of pictures, uint8 (H, W, 3), and a caption."""

    sheet: Pixels
    note: str


class FeatureBrowser:
    """Encodes images on first use, caches the features, and draws maps of the chosen images.

    Rows of a sheet: the photographs, then one row per encoder. Calls from several threads are
    serialized.

    Args:
        encoders (dict): Name -> encoder, at least one.
        source: Images with ``len``, ``name(i)`` and ``read(i)``.
        size (tuple): Height and width in pixels to which all images are resized.
        most_bytes (int): Memory for cached features, maps and photographs. Defaults to 1 GiB.
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        source: Any,
        size: tuple[int, int],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.encoders, self.source, self.size = encoders, source, size
        self._layout = Sheet(size)
        self._cache = MemoryLRU(most_bytes)
        self._lock = threading.Lock()
        self.modes: dict[str, Callable[..., Drawing]] = {
            'similarity': self._similarity,
            'components': self._components,
            'clusters': self._clusters,
            'prototypes': self._prototypes,
            'attention': self._attention,
            'foreground': self._foreground,
        }

    @property
    def names(self) -> list[str]:
        """Printable names of all images."""
        return [printable(self.source.name(i)) for i in range(len(self.source))]

    def draw(
        self, chosen: Sequence[int], mode: str, point: Point, number: int = 0, count: int = 8
    ) -> Drawing:
        """Draw a sheet in one mode.

        Args:
            chosen (sequence): Indices of the images to show, at least one.
            mode (str): Key of ``modes``.
            point (Point): The chosen patch, framed in every mode.
            number (int): Index of the prototype. Defaults to 0.
            count (int): Number of clusters, 2 to ``MOST_CLUSTERS``. Defaults to 8.

        Returns:
            Drawing: The sheet and its caption.

        Raises:
            NotAvailable: If no image or too many are chosen, an image cannot be read, the mode
                is unknown, a number is out of range, or no encoder supports the mode.
        """
        chosen = list(chosen)
        if not chosen:
            raise NotAvailable('choose at least one image')
        if len(chosen) > MOST_SHOWN:
            raise NotAvailable(f'choose at most {MOST_SHOWN} images, got {len(chosen)}')
        if not all(0 <= index < len(self.source) for index in chosen):
            raise NotAvailable(f'images must be in 0..{len(self.source) - 1}, got {chosen}')
        if mode not in self.modes:
            raise NotAvailable(f'mode must be one of {", ".join(self.modes)}, got {mode!r}')
        if not 2 <= count <= MOST_CLUSTERS or number < 0:
            raise NotAvailable(
                f'choose 2 to {MOST_CLUSTERS} clusters, and a prototype from 0 on, '
                f'got {count} clusters and prototype {number}'
            )
        point = point._replace(slot=min(point.slot, len(chosen) - 1))
        with self._lock:
            return self.modes[mode](chosen, point, number, count)

    def locate(self, x: float, y: float, shown: int) -> Optional[Point]:
        """Convert a position on the sheet, in pixels, to a position in an image.

        Args:
            x (float): From the left.
            y (float): From the top.
            shown (int): Number of images on the sheet.

        Returns:
            Point: None if the position is not in a picture.
        """
        return self._layout.locate(x, y, shown, len(self.encoders) + 1)

    def is_readable(self, index: int) -> bool:
        """Return whether an image can be decoded."""
        try:
            self._photo(index)
        except NotAvailable:
            return False
        return True

    def num_prototypes(self, image: int = 0) -> int:
        """Return the largest number of prototypes of the encoders.

        Args:
            image (int): Index of a readable image. Defaults to 0.

        Returns:
            int: 0 if no encoder has an object-aware filter.
        """
        counts = [0]
        for name in self.encoders:
            try:
                counts.append(self._maps(name, [image], 'prototype_attention').shape[-1])
            except NotImplementedError:
                continue
        return max(counts)

    def _photo(self, index: int) -> Pixels:
        def read() -> Pixels:
            try:
                return read_images(self.source, [index], self.size).pixels[0]
            except BadImage as error:  # its message may contain the path
                raise NotAvailable(
                    f'{printable(self.source.name(index))} cannot be read: it is '
                    'damaged, too large or no longer there; choose another image'
                ) from error

        return self._cache.once(('photo', index), read)

    def _maps(self, name: str, chosen: Sequence[int], what: str) -> Tensor:
        """Return features or attention maps of the chosen images, computed only if not cached."""
        maps = {i: self._cache[name, i, what] for i in chosen if (name, i, what) in self._cache}
        missing = [i for i in dict.fromkeys(chosen) if i not in maps]
        if missing:
            encoder, photos = self.encoders[name], [self._photo(i) for i in missing]
            computed = (
                F.normalize(encode_images(encoder, photos), dim=1)
                if what == 'patches'
                else in_batches(getattr(encoder, what), photos)
            )
            for i, own in zip(missing, computed):
                # A copy: a view would keep the whole batch in memory.
                maps[i] = self._cache[name, i, what] = own.clone()
        return torch.stack([maps[i] for i in chosen])

    # ---- one method per mode -----------------------------------------------------------

    def _similarity(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows, scales = {}, {}
        for name in self.encoders:
            maps = self._maps(name, chosen, 'patches')  # (B, C, h, w), of unit length
            rows[name], scales[name] = similarity_panels(
                list(maps), point.slot, point.patch(maps.shape[2:]), normalized=True
            )
        return self._sheet(
            chosen,
            rows,
            point,
            'Cosine similarity to the framed patch; each row has its own scale.',
            scales,
        )

    def _components(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows = {
            name: self._cache.once(
                (name, tuple(chosen), 'components'),
                lambda name=name: pca_maps(self._maps(name, chosen, 'patches')),
            )
            for name in self.encoders
        }
        return self._sheet(
            chosen,
            rows,
            point,
            'The first three principal components of the features of the shown images as red, '
            'green and blue: within a row, equal colors mean similar features.',
        )

    def _clusters(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows: dict[str, list[Pixels]] = {}
        first: Optional[np.ndarray] = None
        for name in self.encoders:
            clusters = self._cache.once(
                (name, tuple(chosen), 'clusters', count),
                lambda name=name: joint_clusters(self._maps(name, chosen, 'patches'), count),
            )
            clusters = clusters if first is None else match_clusters(clusters, first)
            first = clusters if first is None else first
            rows[name] = [cluster_overlay(self._photo(i), c) for i, c in zip(chosen, clusters)]
        return self._sheet(
            chosen,
            rows,
            point,
            f'{count} clusters of patches (k-means over the shown images); the colors of the '
            'rows are matched so that as many patches as possible agree.',
        )

    def _prototypes(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows = {}
        maps, skipped = self._supported('prototype_attention', chosen)
        for name, weights in maps.items():
            weights = weights.mean(dim=1)  # (B, heads, h, w, M) -> (B, h, w, M)
            if number >= weights.shape[-1]:
                raise NotAvailable(
                    f'{name} has prototypes 0..{weights.shape[-1] - 1}, got {number}'
                )
            rows[name] = self._overlays(chosen, weights[..., number].numpy())
        return self._sheet(
            chosen,
            rows,
            point,
            f'Attention of each patch to prototype {number} of the object-aware filter, mean '
            f'over heads; bright is strong.{skipped}',
        )

    def _attention(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        maps, skipped = self._supported('cls_attention', chosen)
        rows = {
            name: self._overlays(chosen, weights.mean(dim=1).numpy())
            for name, weights in maps.items()
        }
        return self._sheet(
            chosen,
            rows,
            point,
            'Attention of the CLS token in the last block, mean over heads; bright is '
            f'strong.{skipped}',
        )

    def _foreground(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        maps, skipped = self._supported('foreground', chosen)
        rows = {
            name: [foreground_overlay(self._photo(i), mask) for i, mask in zip(chosen, masks)]
            for name, masks in maps.items()
        }
        return self._sheet(
            chosen,
            rows,
            point,
            'In color: the smallest set of patches that holds 60 % of the attention of the CLS '
            f'token.{skipped}',
        )

    def _supported(self, what: str, chosen: list[int]) -> tuple[dict[str, Tensor], str]:
        """Return maps of the encoders that support them, and a sentence about the others."""
        maps, reasons = {}, []
        for name in self.encoders:
            try:
                maps[name] = self._maps(name, chosen, what)
            except NotImplementedError as error:
                reasons.append(f'{name}: {error}')
        if not maps:
            raise NotAvailable('; '.join(reasons))
        return maps, ''.join(f' Skipped {reason}.' for reason in reasons)

    def _overlays(self, chosen: list[int], maps: np.ndarray) -> list[Pixels]:
        low, high = float(maps.min()), float(maps.max())
        return [attention_overlay(self._photo(i), own, low, high) for i, own in zip(chosen, maps)]

    # ---- the sheet ---------------------------------------------------------------------

    def _sheet(
        self,
        chosen: list[int],
        rows: dict[str, list[Pixels]],
        point: Point,
        note: str,
        scales: Optional[dict[str, Scale]] = None,
    ) -> Drawing:
        """Draw the photographs and the rows; the frame is a patch of the finest grid."""
        grid = max((encoder.grid(*self.size) for encoder in self.encoders.values()), key=np.prod)
        rows = {'image': [self._photo(i) for i in chosen], **rows}
        return Drawing(self._layout.draw(rows, point, grid, scales), note)
