"""Write a report as one HTML file, with its pictures also as PNG and SVG files."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Optional, Union

from matplotlib.figure import Figure

from cotap_mm.visualization.figures.canvas import Pixels, render
from cotap_mm.visualization.report.export import encode_figure, encode_png

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="cotap_mm">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0; background: #f5f7fa; color: #1f2933;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }}
h1 {{ font-size: 1.8rem; margin: 0 0 .3em; }}
h2 {{ font-size: 1.15rem; margin: 0 0 .2em; }}
p {{ margin: .2em 0 1em; max-width: 75ch; color: #52606d; }}
section {{ background: #fff; border: 1px solid #e4e7eb; border-radius: 10px;
          padding: 20px 24px; margin: 20px 0; }}
code {{ overflow-wrap: anywhere; }}
img {{ max-width: 100%; height: auto; display: block; margin: 0 auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 6px 14px; text-align: right; border-bottom: 1px solid #e4e7eb; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ color: #52606d; font-weight: 600; }}
tr.strong td {{ font-weight: 700; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{intro}</p>
{sections}
{command}</main>
</body>
</html>
"""


class Report:
    """Report with tables and pictures, each with a caption.

    Args:
        title (str): Heading of the page.
        intro (str): Introduction below the heading.
        command (str): Command line that makes the report: shown at its end, and stored in its
            PNG files as the text ``Command``. Defaults to '' (unknown).
        svg (bool): Whether to save figures as SVG files, too. Defaults to False.
    """

    def __init__(self, title: str, intro: str, command: str = '', svg: bool = False) -> None:
        self.title, self.intro, self.command, self.svg = title, intro, command, svg
        self.sections: list[str] = []
        self.pictures: dict[str, bytes] = {}  # file name -> content

    def add_picture(
        self,
        name: str,
        heading: str,
        sentence: str,
        image: Union[Pixels, Figure],
        num_colors: Optional[int] = None,
    ) -> None:
        """Add a section with one picture.

        Args:
            name (str): File name without suffix: lowercase letters, digits, ``_`` and ``-``.
            heading (str): Heading of the section.
            sentence (str): Caption.
            image (np.ndarray | Figure): uint8, shape (H, W, 3), or a figure.
            num_colors (int, optional): See :func:`encode_png`. Defaults to None.

        Raises:
            ValueError: If the name has other characters or is already used.
        """
        if not re.fullmatch(r'[a-z0-9_-]+', name):
            raise ValueError(f'name must consist of a-z, 0-9, _ and -, got {name!r}')
        if f'{name}.png' in self.pictures:
            raise ValueError(f'the report already has a picture {name!r}; choose another name')
        if self.svg and isinstance(image, Figure):
            self.pictures[f'{name}.svg'] = encode_figure(image, 'svg', self.command)
        pixels = render(image) if isinstance(image, Figure) else image
        data = self.pictures[f'{name}.png'] = encode_png(pixels, self.command, num_colors)
        source = base64.b64encode(data).decode()
        self._add(
            heading, sentence, f'<img alt="{escape(heading)}" src="data:image/png;base64,{source}">'
        )

    def add_table(
        self,
        heading: str,
        sentence: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        strong: Sequence[int] = (),
    ) -> None:
        """Add a section with a table.

        Args:
            heading (str): Heading of the section.
            sentence (str): Caption: what the numbers are, and their unit.
            columns (sequence): Headings of the columns.
            rows (sequence): Cells of each row; floats are shown with two decimals.
            strong (sequence): Indices of rows in bold. Defaults to ().

        Raises:
            ValueError: If a row does not have one cell per column.
        """
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f'a row needs {len(columns)} cells, got {len(row)}: {row}')
        head = ''.join(f'<th>{escape(text)}</th>' for text in columns)
        body = ''.join(
            f'<tr{" class=strong" if index in strong else ""}>'
            + ''.join(f'<td>{escape(_cell(value))}</td>' for value in row)
            + '</tr>\n'
            for index, row in enumerate(rows)
        )
        self._add(heading, sentence, f'<table>\n<tr>{head}</tr>\n{body}</table>')

    def _add(self, heading: str, sentence: str, content: str) -> None:
        self.sections.append(
            f'<section>\n<h2>{escape(heading)}</h2>\n<p>{escape(sentence)}</p>\n'
            f'<div class="wide">{content}</div>\n</section>'
        )

    def save(self, folder: Union[str, Path]) -> Path:
        """Write ``report.html`` and the files of the pictures.

        Args:
            folder (str | Path): Output folder; created if it does not exist.

        Returns:
            Path: The HTML file.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.pictures.items():
            (folder / name).write_bytes(data)
        page = folder / 'report.html'
        page.write_text(
            _PAGE.format(
                title=escape(self.title),
                intro=escape(self.intro),
                sections='\n'.join(self.sections),
                command=f'<p>Made by <code>{escape(self.command)}</code></p>\n'
                if self.command
                else '',
            ),
            encoding='utf-8',
            errors='backslashreplace',
        )  # for paths that are not UTF-8
        return page


def _cell(value: Any) -> str:
    return f'{value:.2f}' if isinstance(value, float) else str(value)


def is_report(path: Path) -> bool:
    """Return whether a file was written by :meth:`Report.save`."""
    with open(path, encoding='utf-8', errors='replace') as file:
        return GENERATOR in file.read(1000)


#: Marks the pages that :class:`Report` writes.
GENERATOR = '<meta name="generator" content="cotap_mm">'
