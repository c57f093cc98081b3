"""What the interactive viewer shows: features of a few images, drawn anew for each click."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.files.atomic_write import printable
from cotap_mm.visualization.figures.canvas import Pixels, colorize, resize
from cotap_mm.visualization.figures.clusters import cluster_overlay, joint_clusters, match_clusters
from cotap_mm.visualization.figures.features import pca_maps
from cotap_mm.visualization.figures.overlays import foreground_overlay
from cotap_mm.visualization.figures.prototypes import attention_overlay
from cotap_mm.visualization.report.image_set import encode_images, in_batches, read_images

from .lru_cache import MemoryLRU

GAP = 8  # pixels between pictures
LABEL = 136  # pixels that the name of a row takes
MARGIN = 6  # pixels left of it
PICTURE = 300  # width of a picture, in pixels
MOST_SHOWN = 24  # images at a time
MOST_CLUSTERS = 24
MOST_BYTES = 2**30  # of features, maps and photographs that are kept
_INK, _PAPER = (31, 41, 51), (255, 255, 255)


class Point(NamedTuple):
    """A place in a shown image.

    Attributes:
        slot (int): Which of the shown images, from 0.
        x (float): From the left, 0 to 1.
        y (float): From the top, 0 to 1.
    """

    slot: int
    x: float
    y: float

    def patch(self, grid: Sequence[int]) -> tuple[int, int]:
        """Row and column on a grid of (h, w) patches."""
        return (min(int(self.y * grid[0]), grid[0] - 1), min(int(self.x * grid[1]), grid[1] - 1))


class Drawing(NamedTuple):
    """A sheet of pictures, uint8 (H, W, 3), and a sentence on how to read it."""

    sheet: Pixels
    note: str


class NotAvailable(ValueError):
    """Something that is asked for cannot be shown; the sentence is for the one who asked."""


class FeatureBrowser:
    """Encodes images when they are first shown, keeps that, and draws maps of the chosen ones.

    Rows of a sheet: the photographs, then one row for each encoder. One drawing is made at a
    time, whichever threads ask.

    Args:
        encoders (dict): Name -> encoder, one or more.
        source: Images with ``len``, ``name(i)`` and ``read(i)``.
        size (tuple): Height and width in pixels that all images are resized to.
        most_bytes (int): Memory for features, maps and photographs. Defaults to 1 GiB.
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        source: Any,
        size: tuple[int, int],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.encoders, self.source, self.size = encoders, source, size
        self._kept = MemoryLRU(most_bytes)
        self._one_at_a_time = threading.Lock()
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
        """Names of all images, as they are shown."""
        return [printable(self.source.name(i)) for i in range(len(self.source))]

    def draw(
        self, chosen: Sequence[int], mode: str, point: Point, number: int = 0, count: int = 8
    ) -> Drawing:
        """Draw one mode.

        Args:
            chosen (sequence): Indices of the images to show, at least one.
            mode (str): One of ``modes``.
            point (Point): The chosen patch, framed in every mode.
            number (int): Which prototype. Defaults to 0.
            count (int): How many clusters, 2 to ``MOST_CLUSTERS``. Defaults to 8.

        Returns:
            Drawing: The sheet and what it shows.

        Raises:
            NotAvailable: If no image is chosen or too many, one cannot be read, the mode is
                unknown, a number is out of range, or an encoder cannot show it.
        """
        chosen = list(chosen)
        if not chosen:
            raise NotAvailable('choose at least one image')
        if len(chosen) > MOST_SHOWN:
            raise NotAvailable(f'choose at most {MOST_SHOWN} images, got {len(chosen)}')
        if not all(0 <= index < len(self.source) for index in chosen):
            raise NotAvailable(f'images are 0..{len(self.source) - 1}, got {chosen}')
        if mode not in self.modes:
            raise NotAvailable(f'mode must be one of {", ".join(self.modes)}, got {mode!r}')
        if not 2 <= count <= MOST_CLUSTERS or number < 0:
            raise NotAvailable(
                f'there can be 2 to {MOST_CLUSTERS} clusters, and prototypes count '
                f'from 0, got {count} and {number}'
            )
        point = point._replace(slot=min(point.slot, len(chosen) - 1))
        with self._one_at_a_time:
            return self.modes[mode](chosen, point, number, count)

    def locate(self, x: float, y: float, shown: int) -> Optional[Point]:
        """Place on the sheet, in pixels -> place in an image; None between pictures."""
        width, height = self._picture
        column, left = divmod(x - LABEL, width + GAP)
        row, top = divmod(y, height + GAP)
        inside = left < width and top < height and 0 <= column < shown
        if not inside or not 0 <= row <= len(self.encoders):
            return None
        return Point(int(column), left / width, top / height)

    def is_readable(self, index: int) -> bool:
        """Whether an image can be shown."""
        try:
            self._photo(index)
        except NotAvailable:
            return False
        return True

    def num_prototypes(self, image: int = 0) -> int:
        """The largest number of prototypes of the encoders, 0 without a filter.

        Args:
            image (int): One that can be read. Defaults to 0.
        """
        counts = [0]
        for name in self.encoders:
            try:
                counts.append(self._maps(name, [image], 'prototype_attention').shape[-1])
            except NotImplementedError:
                continue
        return max(counts)

    @property
    def _picture(self) -> tuple[int, int]:
        """Width and height of a picture on the sheet."""
        return PICTURE, max(1, round(PICTURE * self.size[0] / self.size[1]))

    def _photo(self, index: int) -> Pixels:
        def read() -> Pixels:
            try:
                return read_images(self.source, [index], self.size).pixels[0]
            except BadImage as error:  # whose sentence may hold the path
                raise NotAvailable(
                    f'{printable(self.source.name(index))} cannot be read, it is '
                    'damaged, too large or gone; choose another image'
                ) from error

        return self._kept.once(('photo', index), read)

    def _maps(self, name: str, chosen: Sequence[int], what: str) -> Tensor:
        """Features, or a kind of attention, of the chosen images; each is computed once."""
        maps = {i: self._kept[name, i, what] for i in chosen if (name, i, what) in self._kept}
        missing = [i for i in dict.fromkeys(chosen) if i not in maps]
        if missing:
            encoder, photos = self.encoders[name], [self._photo(i) for i in missing]
            found = (
                F.normalize(encode_images(encoder, photos), dim=1)
                if what == 'patches'
                else in_batches(getattr(encoder, what), photos)
            )
            for i, each in zip(missing, found):
                # A copy: a view would keep the features of all images that came with it.
                maps[i] = self._kept[name, i, what] = each.clone()
        return torch.stack([maps[i] for i in chosen])

    # ---- one function for each mode ----------------------------------------------------

    def _similarity(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows, scales = {}, {}
        for name in self.encoders:
            maps = self._maps(name, chosen, 'patches')  # (B, C, h, w), normalised
            row, column = point.patch(maps.shape[2:])
            cosine = torch.einsum('c,bchw->bhw', maps[point.slot, :, row, column], maps).numpy()
            scales[name] = low, _ = float(cosine.min()), 1.0
            rows[name] = [colorize(each, low, 1) for each in cosine]
        return self._sheet(
            chosen,
            rows,
            point,
            'Cosine similarity to the framed patch; each row has its own scale.',
            scales,
        )

    def _components(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows = {
            name: self._kept.once(
                (name, tuple(chosen), 'components'),
                lambda name=name: pca_maps(self._maps(name, chosen, 'patches')),
            )
            for name in self.encoders
        }
        return self._sheet(
            chosen,
            rows,
            point,
            'The three main directions of the features over '
            'the shown images as red, green and blue: within a row, equal colours '
            'mean similar features.',
        )

    def _clusters(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows: dict[str, list[Pixels]] = {}
        first: Optional[np.ndarray] = None
        for name in self.encoders:
            found = self._kept.once(
                (name, tuple(chosen), 'clusters', count),
                lambda name=name: joint_clusters(self._maps(name, chosen, 'patches'), count),
            )
            found = found if first is None else match_clusters(found, first)
            first = found if first is None else first
            rows[name] = [cluster_overlay(self._photo(i), each) for i, each in zip(chosen, found)]
        return self._sheet(
            chosen,
            rows,
            point,
            f'{count} groups of patches (k-means over the '
            'shown images); groups of two rows share a colour where they share most '
            'patches.',
        )

    def _prototypes(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        rows = {}
        found, without = self._those_that_have('prototype_attention', chosen)
        for name, weights in found.items():
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
            f'Attention of each patch to prototype {number} of '
            f'the object-aware filter, mean over heads; bright is strong.{without}',
        )

    def _attention(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        found, without = self._those_that_have('cls_attention', chosen)
        rows = {
            name: self._overlays(chosen, maps.mean(dim=1).numpy()) for name, maps in found.items()
        }
        return self._sheet(
            chosen,
            rows,
            point,
            'Attention of the CLS token in the last block, '
            f'mean over heads; bright is strong.{without}',
        )

    def _foreground(self, chosen: list[int], point: Point, number: int, count: int) -> Drawing:
        found, without = self._those_that_have('foreground', chosen)
        rows = {
            name: [foreground_overlay(self._photo(i), mask) for i, mask in zip(chosen, masks)]
            for name, masks in found.items()
        }
        return self._sheet(
            chosen,
            rows,
            point,
            'In colour: the smallest set of patches that holds '
            f'60 % of the attention of CLS.{without}',
        )

    def _those_that_have(self, what: str, chosen: list[int]) -> tuple[dict[str, Tensor], str]:
        """Maps of the encoders that have such, and a sentence on the others."""
        found, reasons = {}, []
        for name in self.encoders:
            try:
                found[name] = self._maps(name, chosen, what)
            except NotImplementedError as error:
                reasons.append(f'{name}: {error}')
        if not found:
            raise NotAvailable('; '.join(reasons))
        return found, ''.join(f' Without {reason}.' for reason in reasons)

    def _overlays(self, chosen: list[int], maps: np.ndarray) -> list[Pixels]:
        low, high = float(maps.min()), float(maps.max())
        return [attention_overlay(self._photo(i), each, low, high) for i, each in zip(chosen, maps)]

    # ---- the sheet ---------------------------------------------------------------------

    def _sheet(
        self,
        chosen: list[int],
        rows: dict[str, list[Pixels]],
        point: Point,
        note: str,
        scales: Optional[dict[str, tuple[float, float]]] = None,
    ) -> Drawing:
        width, height = self._picture
        lines = {'image': [self._photo(i) for i in chosen], **rows}
        sheet = Image.new(
            'RGB',
            (LABEL + len(chosen) * (width + GAP) - GAP, len(lines) * (height + GAP) - GAP),
            _PAPER,
        )
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
        for r, (name, pictures) in enumerate(lines.items()):
            top = r * (height + GAP)
            for line, part in enumerate(_broken(name)):
                pen.text((MARGIN, top + 4 + 19 * line), part, fill=_INK, font=font)
            if scales and name in scales:
                _scale_bar(sheet, pen, top + height, *scales[name])
            for column, picture in enumerate(pictures):
                large = resize(picture, (height, width), smooth=name == 'image')
                sheet.paste(Image.fromarray(large), (LABEL + column * (width + GAP), top))
            self._frame(pen, point, top)
        return Drawing(np.asarray(sheet), note)

    def _frame(self, pen: ImageDraw.ImageDraw, point: Point, top: int) -> None:
        """Frame the chosen patch of the finest grid from outside, in white on black."""
        width, height = self._picture
        grid = max((encoder.grid(*self.size) for encoder in self.encoders.values()), key=np.prod)
        row, column = point.patch(grid)
        left = LABEL + point.slot * (width + GAP)
        box = [
            left + column * width / grid[1],
            top + row * height / grid[0],
            left + (column + 1) * width / grid[1],
            top + (row + 1) * height / grid[0],
        ]
        for margin, width, color in ((5, 5, 'black'), (4, 2, 'white')):
            pen.rectangle(
                [box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin],
                outline=color,
                width=width,
            )


def _scale_bar(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, bottom: int, low: float, high: float
) -> None:
    """Draw what the colours mean, left of a row that ends at ``bottom``."""
    font, length = ImageFont.load_default(12), LABEL - MARGIN - 30
    bar = colorize(np.linspace(0, 1, length)[None].repeat(10, axis=0), 0, 1)
    sheet.paste(Image.fromarray(bar), (MARGIN, bottom - 30))
    pen.text((MARGIN, bottom - 17), f'{low:.2f}', fill=_INK, font=font)
    pen.text((MARGIN + length, bottom - 17), f'{high:.2f}', fill=_INK, font=font, anchor='ra')


def _broken(name: str, length: int = 16) -> list[str]:
    """A name in lines of at most ``length`` characters, broken at spaces if it has any."""
    lines: list[str] = ['']
    for word in name.split(' '):
        while len(word) > length:
            lines.append(word[:length])
            word = word[length:]
        if len(lines[-1]) + len(word) < length:
            lines[-1] = f'{lines[-1]} {word}'.strip()
        else:
            lines.append(word)
    return [line for line in lines if line][:6]
