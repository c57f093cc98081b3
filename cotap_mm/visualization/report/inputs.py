"""Encoders and images of a report; features are computed on first use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Callable, NamedTuple, Optional

from torch import Tensor

from cotap_mm.encoders.encoder import Encoder
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.visualization.errors import NotAvailable

from .example import choose_example, middle_of_foreground
from .image_set import ImageSet, common_size, encode_images, read_images
from .panels import Patch

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
            first encoder; or several such patches for the overview. By default an object, by
            the labels or the foreground mask.
        select (sequence, optional): Names of the images to show, instead of ``limit`` images.
        clusters (int): Number of clusters. Defaults to 12.
        window (int, optional): Encode in overlapping windows of that many pixels.
        classes (sequence, optional): Name of each class.
        projection (str): 'lda' or 'pca'. Defaults to 'lda'.
    """

    size: Optional[Sequence[int]] = None
    scale: float = 1.0
    limit: int = 6
    pool: int = 60
    patch: Optional[Sequence[Any]] = None
    clusters: int = 12
    window: Optional[int] = None
    classes: Optional[Sequence[str]] = None
    projection: str = 'lda'
    select: Optional[Sequence[str]] = None


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
        self.shown_indices = (
            find_images(source, options.select)
            if options.select
            else evenly_spaced(len(source), options.limit)
        )
        self.shown = read_images(source, self.shown_indices, self.size, labels)

    @property
    def first_encoder(self) -> Encoder:
        """The encoder whose grid counts patches."""
        return next(iter(self.encoders.values()))

    @property
    def pool_indices(self) -> list[int]:
        """Indices of the images of :attr:`pool`."""
        return evenly_spaced(len(self.source), self.options.pool)

    @cached_property
    def pool(self) -> ImageSet:
        """Images to search for prototypes, classes and similar patches."""
        return read_images(self.source, self.pool_indices, self.size, self.labels)

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
    def patch(self) -> tuple[Patch, str]:
        """Patch to follow (image, row, column), and what it shows if that is known."""
        if self.options.patch:
            return self.patches[0], ''
        if self.labels is not None:
            example = choose_example(
                self.first_encoder, self.shown.pixels, self.shown.labels, self.classes
            )
            return (example.image, *example.patch), example.name
        grid = self.first_encoder.grid(*self.size)
        return (0, *middle_of_foreground(self.first_encoder, self.shown, grid)), ''

    @cached_property
    def patches(self) -> list[Patch]:
        """All patches of the options, or :attr:`patch`."""
        if not self.options.patch:
            return [self.patch[0]]
        chosen = self.options.patch
        if not isinstance(chosen[0], Sequence):
            chosen = [chosen]
        grid = self.first_encoder.grid(*self.size)
        images = len(self.shown.pixels)
        for image, row, column in chosen:
            if not (0 <= image < images and 0 <= row < grid[0] and 0 <= column < grid[1]):
                raise ValueError(
                    f'--patch must be an image 0..{images - 1}, and a row and column of the '
                    f'{grid[0]} x {grid[1]} grid, counted from 0, got {image} {row} {column}'
                )
        return [(image, row, column) for image, row, column in chosen]

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


def find_images(source: Any, names: Sequence[str]) -> list[int]:
    """Find images by name.

    Args:
        source: Images with ``len`` and ``name(i)``.
        names (sequence): Names as in the source, or only file names.

    Returns:
        list: Indices, in the order of ``names``.

    Raises:
        ValueError: If no image, or more than one, has a name.
    """
    known = [source.name(index) for index in range(len(source))]
    indices = []
    for name in names:
        found = [i for i, each in enumerate(known) if each == name]
        found = found or [i for i, each in enumerate(known) if PurePosixPath(each).name == name]
        if len(found) != 1:
            raise ValueError(
                f'--select {printable(name)}: {len(found)} images have this name; write it as '
                f'in the folder, such as {printable(known[0])}'
            )
        indices += found
    return indices
