"""Sheet of pictures that the interactive viewer shows; clicks on it map to patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cotap_mm.visualization.figures.canvas import Pixels, colorize, resize
from cotap_mm.visualization.figures.grid import Scale
from cotap_mm.visualization.figures.norms import MARK

GAP = 8  # pixels between pictures
LABEL = 136  # width of the row names in pixels
MARGIN = 6  # pixels left of the row names
PICTURE = 300  # width of a picture in pixels
NARROW = 760  # width of the upright sheet in pixels: about twice that of a phone
HEAD = 96  # height of the column names of the upright sheet in pixels
SWATCH = 14  # side of a color in the legend
_INK, _PAPER = (31, 41, 51), (255, 255, 255)


class Point(NamedTuple):
    """Position in a shown image.

    Attributes:
        slot (int): Index among the shown images.
        x (float): From the left, 0 to 1.
        y (float): From the top, 0 to 1.
    """

    slot: int
    x: float
    y: float

    def patch(self, grid: Sequence[int]) -> tuple[int, int]:
        """Return row and column on a grid of (h, w) patches."""
        return (min(int(self.y * grid[0]), grid[0] - 1), min(int(self.x * grid[1]), grid[1] - 1))


class Sheet:
    """Layout of pictures: the photographs, then those of each encoder.

    On a wide screen, each encoder is a row and each image a column, with the names on the left.
    On a narrow one (``upright``), it is the other way round, with the names on top.

    Args:
        size (tuple): Height and width of the images in pixels.
        series (int): Number of encoders, plus one for the photographs.
        upright (bool): Layout for narrow screens. Defaults to False.
    """

    def __init__(self, size: tuple[int, int], series: int = 2, upright: bool = False) -> None:
        self.upright, self.series = upright, series
        self.left, self.top = (0, HEAD) if upright else (LABEL, 0)
        self.width = (NARROW + GAP) // series - GAP if upright else PICTURE
        self.height = max(1, round(self.width * size[0] / size[1]))

    def corner(self, series: int, image: int) -> tuple[int, int]:
        """Return the left and top edge of a picture in pixels."""
        column, row = (series, image) if self.upright else (image, series)
        return self.left + column * (self.width + GAP), self.top + row * (self.height + GAP)

    def locate(self, x: float, y: float, images: int) -> Optional[Point]:
        """Convert a position on the sheet, in pixels, to a position in an image.

        Args:
            x (float): From the left.
            y (float): From the top.
            images (int): Number of images.

        Returns:
            Point: None if the position is not in a picture.
        """
        column, left = divmod(x - self.left, self.width + GAP)
        row, top = divmod(y - self.top, self.height + GAP)
        image, series = (row, column) if self.upright else (column, row)
        inside = left < self.width and top < self.height
        if not inside or not 0 <= image < images or not 0 <= series < self.series:
            return None
        return Point(int(image), left / self.width, top / self.height)

    def draw(
        self,
        rows: Mapping[str, Sequence[Pixels]],
        point: Point,
        grid: Sequence[int],
        scales: Optional[Mapping[str, Scale]] = None,
        legend: Optional[Mapping[str, Any]] = None,
        marks: Optional[Mapping[str, np.ndarray]] = None,
    ) -> Pixels:
        """Draw all pictures with names, color scales and legend, and frame the chosen patch.

        Args:
            rows (mapping): Name of each series -> its pictures, one per image; photographs are
                named 'image'.
            point (Point): The chosen patch.
            grid (sequence): Patch grid (h, w) of the frame.
            scales (mapping, optional): Name of a series -> its color scale. Defaults to None.
            legend (mapping, optional): Text -> color, below the pictures. Defaults to None.
            marks (mapping, optional): Name of a series -> patches to frame, bool, (B, h, w).
                Defaults to None.

        Returns:
            np.ndarray: uint8, shape (H, W, 3).
        """
        images = max(map(len, rows.values()))
        last = self.corner(len(rows) - 1, images - 1)
        width, bottom = last[0] + self.width, last[1] + self.height
        lines = _legend_lines(legend or {}, width, 20 if self.upright else 15)
        sheet = Image.new('RGB', (width, bottom + 26 * len(lines)), _PAPER)
        pen = ImageDraw.Draw(sheet)
        for index, (name, pictures) in enumerate(rows.items()):
            self._write_name(sheet, pen, index, name, (scales or {}).get(name))
            for image, picture in enumerate(pictures):
                large = resize(picture, (self.height, self.width), smooth=name == 'image')
                corner = self.corner(index, image)
                sheet.paste(Image.fromarray(large), corner)
                if marks and name in marks:
                    self._mark(pen, marks[name][image], corner)
            self._frame(pen, point, grid, self.corner(index, point.slot))
        for index, line in enumerate(lines):
            _draw_legend(pen, line, bottom + 26 * index + 8, 20 if self.upright else 15)
        return np.asarray(sheet)

    def _write_name(
        self,
        sheet: Image.Image,
        pen: ImageDraw.ImageDraw,
        index: int,
        name: str,
        scale: Optional[Scale],
    ) -> None:
        left, top = self.corner(index, 0)
        if self.upright:
            for line, text in enumerate(wrap_name(name, max(6, self.width // 13))[:2]):
                pen.text((left, 4 + 25 * line), text, fill=_INK, font=_font(22))
            if scale:
                _draw_scale(sheet, pen, (left, HEAD - 42), self.width, scale, 18)
            return
        for line, text in enumerate(wrap_name(name)):
            pen.text((MARGIN, top + 4 + 19 * line), text, fill=_INK, font=_font(15))
        if scale:
            corner = (MARGIN, top + self.height - 30)
            _draw_scale(sheet, pen, corner, LABEL - MARGIN - 30, scale, 12)

    def _frame(
        self, pen: ImageDraw.ImageDraw, point: Point, grid: Sequence[int], corner: tuple[int, int]
    ) -> None:
        """Frame the chosen patch from outside, in white on black."""
        box = self._cell(point.patch(grid), grid, corner)
        for margin, line, color in ((5, 5, 'black'), (4, 2, 'white')):
            pen.rectangle(
                [box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin],
                outline=color,
                width=line,
            )

    def _mark(self, pen: ImageDraw.ImageDraw, marked: np.ndarray, corner: tuple[int, int]) -> None:
        """Frame patches (h, w) of a picture from inside."""
        for row, column in np.argwhere(marked):
            box = self._cell((int(row), int(column)), marked.shape, corner)
            pen.rectangle(box, outline=MARK, width=2)

    def _cell(
        self, patch: tuple[int, int], grid: Sequence[int], corner: tuple[int, int]
    ) -> list[float]:
        high, wide = self.height / grid[0], self.width / grid[1]
        left, top = corner[0] + patch[1] * wide, corner[1] + patch[0] * high
        return [left, top, left + wide, top + high]


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _draw_scale(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    length: int,
    scale: Scale,
    size: int,
) -> None:
    """Draw a color scale with its ends below."""
    bar = colorize(np.linspace(0, 1, length)[None].repeat(10, axis=0), 0, 1, scale.colormap)
    sheet.paste(Image.fromarray(bar), corner)
    low, high = f'{scale.low:.2f}', f'{scale.high:.2f}'
    pen.text((corner[0], corner[1] + 13), low, fill=_INK, font=_font(size))
    end = (corner[0] + length, corner[1] + 13)
    pen.text(end, high, fill=_INK, font=_font(size), anchor='ra')


def _legend_lines(
    legend: Mapping[str, Any], width: int, size: int
) -> list[list[tuple[int, str, Any]]]:
    """Arrange a legend in lines of (left edge, text, color)."""
    lines: list[list[tuple[int, str, Any]]] = []
    left = width
    for text, color in legend.items():
        wide = SWATCH + 6 + int(_font(size).getlength(text)) + 18
        if left + wide > width:
            lines.append([])
            left = MARGIN
        lines[-1].append((left, text, color))
        left += wide
    return lines


def _draw_legend(
    pen: ImageDraw.ImageDraw, line: Sequence[tuple[int, str, Any]], top: int, size: int
) -> None:
    for left, text, color in line:
        pen.rectangle([left, top + 2, left + SWATCH, top + 2 + SWATCH], fill=tuple(color))
        pen.text((left + SWATCH + 6, top + 9), text, fill=_INK, font=_font(size), anchor='lm')


def wrap_name(name: str, length: int = 16) -> list[str]:
    """Break a name into lines of at most ``length`` characters, at spaces if possible."""
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
