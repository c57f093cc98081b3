"""Sheet of pictures that the interactive viewer shows; clicks on it map to patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cotap_mm.visualization.figures.canvas import Pixels, colorize, resize
from cotap_mm.visualization.figures.grid import Scale

GAP = 8  # pixels between pictures
LABEL = 136  # width of the row names in pixels
MARGIN = 6  # pixels left of the row names
PICTURE = 300  # width of a picture in pixels
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
    """Layout of rows of pictures: the photographs, then one row per encoder.

    Args:
        size (tuple): Height and width of the images in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.width, self.height = PICTURE, max(1, round(PICTURE * size[0] / size[1]))

    def locate(self, x: float, y: float, columns: int, rows: int) -> Optional[Point]:
        """Convert a position on the sheet, in pixels, to a position in an image.

        Args:
            x (float): From the left.
            y (float): From the top.
            columns (int): Number of images.
            rows (int): Number of rows, with the photographs.

        Returns:
            Point: None if the position is not in a picture.
        """
        column, left = divmod(x - LABEL, self.width + GAP)
        row, top = divmod(y, self.height + GAP)
        inside = left < self.width and top < self.height and 0 <= column < columns
        if not inside or not 0 <= row < rows:
            return None
        return Point(int(column), left / self.width, top / self.height)

    def draw(
        self,
        rows: dict[str, list[Pixels]],
        point: Point,
        grid: Sequence[int],
        scales: Optional[dict[str, Scale]] = None,
    ) -> Pixels:
        """Draw all rows with their names, color scales, and the chosen patch framed.

        Args:
            rows (dict): Name of each row -> its pictures, one per image; photographs are
                named 'image'.
            point (Point): The chosen patch.
            grid (sequence): Patch grid (h, w) of the frame.
            scales (dict, optional): Name of a row -> its color scale. Defaults to None.

        Returns:
            np.ndarray: uint8, shape (H, W, 3).
        """
        columns = max(map(len, rows.values()))
        size = (
            LABEL + columns * (self.width + GAP) - GAP,
            len(rows) * (self.height + GAP) - GAP,
        )
        sheet = Image.new('RGB', size, _PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
        for r, (name, pictures) in enumerate(rows.items()):
            top = r * (self.height + GAP)
            for line, text in enumerate(wrap_name(name)):
                pen.text((MARGIN, top + 4 + 19 * line), text, fill=_INK, font=font)
            if scales and name in scales:
                _draw_scale(sheet, pen, top + self.height, scales[name])
            for column, picture in enumerate(pictures):
                large = resize(picture, (self.height, self.width), smooth=name == 'image')
                sheet.paste(Image.fromarray(large), (LABEL + column * (self.width + GAP), top))
            self._frame(pen, point, grid, top)
        return np.asarray(sheet)

    def _frame(self, pen: ImageDraw.ImageDraw, point: Point, grid: Sequence[int], top: int) -> None:
        """Frame the chosen patch from outside, in white on black."""
        row, column = point.patch(grid)
        left = LABEL + point.slot * (self.width + GAP)
        box = [
            left + column * self.width / grid[1],
            top + row * self.height / grid[0],
            left + (column + 1) * self.width / grid[1],
            top + (row + 1) * self.height / grid[0],
        ]
        for margin, line, color in ((5, 5, 'black'), (4, 2, 'white')):
            pen.rectangle(
                [box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin],
                outline=color,
                width=line,
            )


def _draw_scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, bottom: int, scale: Scale) -> None:
    """Draw the color scale of a row, to the left of its bottom edge."""
    font, length = ImageFont.load_default(12), LABEL - MARGIN - 30
    bar = colorize(np.linspace(0, 1, length)[None].repeat(10, axis=0), 0, 1)
    sheet.paste(Image.fromarray(bar), (MARGIN, bottom - 30))
    low, high = f'{scale.low:.2f}', f'{scale.high:.2f}'
    pen.text((MARGIN, bottom - 17), low, fill=_INK, font=font)
    pen.text((MARGIN + length, bottom - 17), high, fill=_INK, font=font, anchor='ra')


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
