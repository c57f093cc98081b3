"""Encoders and images of a report; features are computed on first use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Callable, NamedTuple, Optional

from torch import Tensor

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.visualization.errors import NotAvailable

from .example import choose_example, middle_of_foreground
from .image_set import ImageSet, common_size, encode_images, read_images

LARGEST_SIDE = 16384  # pixels, of an image that is encoded


class ReportOptions(NamedTuple):
    """Options of a report; each is the option of ``cotap visualize`` with the same name.

    Attributes:
        size (sequence, optional): Height and width of all images; see :func:`common_size` for
            the default.
        scale (float): Factor on that size. Defaults to 1.
        limit (int): Number of images to show. Defaults to 6.
        pool (int): Number of images to search for prototypes and classes. Defaults to 60.
        patch (sequence, optional): Patch to follow: image, row and column on the grid of the
            first encoder. By default an object, by the labels or the foreground mask.
        clusters (int): Number of clusters. Defaults to 12.
        window (int, optional): Encode in overlapping windows of that many pixels.
        classes (sequence, optional): Name of each class.
        projection (str): 'lda' or 'pca'. Defaults to 'lda'.
    """

    size: Optional[Sequence[int]] = None
    scale: float = 1.0
    limit: int = 6
    pool: int = 60
    patch: Optional[Sequence[int]] = None
    clusters: int = 12
    window: Optional[int] = None
    classes: Optional[Sequence[str]] = None
    projection: str = 'lda'


class ReportInputs:
    """Encoders and images of a report.

    Args:
        encoders (dict): Name -> encoder, at least one.
        source: Images with ``len``, ``name(i)`` and ``read(i)``.
        labels (optional): Labeled data set of the same images: ``labels[i]['label']``.
            Defaults to None.
        options (ReportOptions, optional): Defaults to None (the defaults of each option).

    Raises:
        ValueError: If the scale is not positive, or the images would be too small or too large.
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        source: Any,
        labels: Optional[Any] = None,
        options: Optional[ReportOptions] = None,
    ) -> None:
        self.encoders, self.source, self.labels = encoders, source, labels
        self.options = options = options or ReportOptions()
        first = self.source.read(0)
        height, width = options.size or common_size(first, self.first_encoder.patch_size)
        if not 0 < options.scale < math.inf:
            raise ValueError(f'--scale must be positive, got {options.scale}')
        self.size = round(height * options.scale), round(width * options.scale)
        if not 1 <= min(self.size) <= max(self.size) <= LARGEST_SIDE:
            raise ValueError(
                f'the sides of images must have 1 to {LARGEST_SIDE} pixels, got '
                f'{self.size[0]} x {self.size[1]}; change --size or --scale'
            )
        self.shown = self._read(options.limit)

    @property
    def first_encoder(self) -> Encoder:
        """The encoder whose grid counts patches."""
        return next(iter(self.encoders.values()))

    @cached_property
    def pool(self) -> ImageSet:
        """Images to search for prototypes and classes."""
        return self._read(self.options.pool)

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Patch features of the shown images for each encoder, each (B, C, h, w)."""
        return {
            name: encode_images(encoder, self.shown.pixels, self.options.window)
            for name, encoder in self.encoders.items()
        }

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; ``class 0``, ... by default."""
        labels = [label[label != 255] for label in (*self.shown.labels, *self.pool.labels)]
        highest = max((int(label.max()) for label in labels if len(label)), default=-1)
        names = self.options.classes or [f'class {index}' for index in range(highest + 1)]
        if highest >= len(names):
            raise ValueError(
                f'--classes names {len(names)} classes, but the labels go up to class '
                f'{highest}, counted from 0; name all {highest + 1}'
            )
        return list(names)

    @cached_property
    def patch(self) -> tuple[tuple[int, int, int], str]:
        """Patch to follow (image, row, column), and what it shows if that is known."""
        grid = self.first_encoder.grid(*self.size)
        if self.options.patch:
            image, row, column = self.options.patch
            images = len(self.shown.pixels)
            if not (0 <= image < images and 0 <= row < grid[0] and 0 <= column < grid[1]):
                raise ValueError(
                    f'--patch must be an image 0..{images - 1}, and a row and column of the '
                    f'{grid[0]} x {grid[1]} grid, counted from 0, got {image} {row} {column}'
                )
            return (image, row, column), ''
        if self.labels is not None:
            example = choose_example(
                self.first_encoder, self.shown.pixels, self.shown.labels, self.classes
            )
            return (example.image, *example.patch), example.name
        return (0, *middle_of_foreground(self.first_encoder, self.shown, grid)), ''

    def compute_where_available(self, compute: Callable[[Encoder], Any]) -> dict[str, Any]:
        """Apply a function to each encoder that supports it, and print which ones do not.

        Raises:
            NotAvailable: If no encoder supports it.
        """
        results, reasons = {}, {}
        for name, encoder in self.encoders.items():
            try:
                results[name] = compute(encoder)
            except NotImplementedError as error:
                reasons[name] = str(error)
        if not results:
            raise NotAvailable('; '.join(f'{name}: {reason}' for name, reason in reasons.items()))
        for name, reason in reasons.items():
            print(f'  skipped {name}: {reason}')
        return results

    def _read(self, limit: int) -> ImageSet:
        indices = evenly_spaced(len(self.source), limit)
        return read_images(self.source, indices, self.size, self.labels)
