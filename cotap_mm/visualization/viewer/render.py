"""Draw what the interactive viewer shows: features of a few images, for each click."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

import numpy as np
from matplotlib.figure import Figure

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.files.atomic_write import printable
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.canvas import Pixels, frame_patch
from cotap_mm.visualization.figures.grid import Panel, Row, sheet_figure
from cotap_mm.visualization.figures.norms import draw_outliers
from cotap_mm.visualization.report.image_set import short_titles

from .cached_features import CachedFeatures
from .modes import MODES, Content, Request
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

    Attributes:
        modes (dict): Name of each mode -> the function that draws it.
    """

    modes = MODES

    def __init__(
        self,
        encoders: dict[str, Encoder],
        source: Any,
        size: tuple[int, int],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.encoders, self.source, self.size = encoders, source, size
        self._features = CachedFeatures(encoders, source, size, most_bytes)
        self._cache = self._features.cache
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Printable names of all images."""
        return [printable(self.source.name(i)) for i in range(len(self.source))]

    @property
    def grid(self) -> tuple[int, int]:
        """The finest patch grid (h, w) of the encoders: one of its patches is chosen."""
        return max((encoder.grid(*self.size) for encoder in self.encoders.values()), key=np.prod)

    def draw(
        self,
        chosen: Sequence[int],
        mode: str,
        point: Point,
        number: int = 0,
        count: int = 8,
        upright: bool = False,
        networks: Sequence[str] = (),
    ) -> Drawing:
        """Draw a sheet in one mode.

        Args:
            chosen (sequence): Indices of the images to show, at least one.
            mode (str): Key of ``modes``.
            point (Point): The chosen patch, framed in every mode.
            number (int): Index of the prototype. Defaults to 0.
            count (int): Number of clusters, 2 to ``MOST_CLUSTERS``. Defaults to 8.
            upright (bool): Layout for narrow screens. Defaults to False.
            networks (sequence): Names of the encoders to show. Defaults to () (all).

        Returns:
            Drawing: The sheet and its caption.

        Raises:
            NotAvailable: If no image or too many are chosen, an image cannot be read, the mode
                or an encoder is unknown, a number is out of range, or no encoder supports the
                mode.
        """
        request = self._check(chosen, mode, point, number, count)
        features = self._features_of(networks)
        with self._lock:
            content = self.modes[mode](features, request)
            rows = {'image': self._photos(request), **content.rows}
            sheet = self._layout(upright, len(features.encoders)).draw(
                rows, request.point, self.grid, content.scales, content.legend, content.marks
            )
        return Drawing(sheet, content.note)

    def figure(
        self,
        chosen: Sequence[int],
        mode: str,
        point: Point,
        number: int = 0,
        count: int = 8,
        networks: Sequence[str] = (),
    ) -> Figure:
        """Draw the same as :meth:`draw` as a Matplotlib figure, with the names of the images.

        Raises:
            NotAvailable: As :meth:`draw`.
        """
        request = self._check(chosen, mode, point, number, count)
        features = self._features_of(networks)
        with self._lock:
            content = self.modes[mode](features, request)
            photos = self._photos(request)
        frame = partial(
            frame_patch,
            patch=request.point.patch(self.grid),
            grid=self.grid,
            size=self.size,
            thickness=0.7,
        )
        photographs = [Panel(pixels) for pixels in photos]
        photographs[request.point.slot] = Panel(photos[request.point.slot], frame)
        rows = [Row('image', photographs)]
        for name, pictures in content.rows.items():
            panels = self._panels(content, name, pictures)
            rows.append(Row(name, panels, content.scales.get(name)))
        titles = short_titles([printable(self.source.name(i)) for i in request.chosen])
        return sheet_figure(rows, titles, legend=content.legend or None)

    def locate(
        self,
        x: float,
        y: float,
        shown: int,
        upright: bool = False,
        networks: Sequence[str] = (),
    ) -> Optional[Point]:
        """Convert a position on the sheet, in pixels, to a position in an image.

        Args:
            x (float): From the left.
            y (float): From the top.
            shown (int): Number of images on the sheet.
            upright (bool): Layout of the sheet. Defaults to False.
            networks (sequence): Names of the encoders on the sheet. Defaults to () (all).

        Returns:
            Point: None if the position is not in a picture.
        """
        rows = len(self._features_of(networks).encoders)
        return self._layout(upright, rows).locate(x, y, shown)

    def is_readable(self, index: int) -> bool:
        """Return whether an image can be decoded."""
        try:
            self._features.photo(index)
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
                maps = self._features.maps(name, [image], 'prototype_attention')
            except NotImplementedError:
                continue
            counts.append(maps.shape[-1])
        return max(counts)

    def _check(
        self, chosen: Sequence[int], mode: str, point: Point, number: int, count: int
    ) -> Request:
        """Check what is to be drawn; see :meth:`draw`."""
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
        return Request(chosen, point, number, count)

    def _photos(self, request: Request) -> list[Pixels]:
        return [self._features.photo(i) for i in request.chosen]

    def _features_of(self, networks: Sequence[str]) -> CachedFeatures:
        for name in networks:
            if name not in self.encoders:
                raise NotAvailable(
                    f'{name[:100]} is not among the networks: {", ".join(self.encoders)}'
                )
        return self._features.of(networks) if networks else self._features

    def _layout(self, upright: bool, encoders: int) -> Sheet:
        return Sheet(self.size, encoders + 1, upright)

    def _panels(self, content: Content, name: str, pictures: Sequence[Pixels]) -> list[Panel]:
        if name not in content.marks:
            return [Panel(pixels) for pixels in pictures]
        return [
            Panel(pixels, partial(draw_outliers, outliers=outliers, size=self.size))
            for pixels, outliers in zip(pictures, content.marks[name])
        ]
