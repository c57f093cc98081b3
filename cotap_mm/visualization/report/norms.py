"""Section of a report with the norms of patch tokens."""

from __future__ import annotations

from functools import partial

from cotap_mm.visualization.figures.grid import Panel, Row, sheet_figure
from cotap_mm.visualization.figures.norms import NORMS_NOTE, Norms, draw_outliers, norm_pixels

from .html import Report
from .image_set import ImageSet
from .sections import image_titles


def add_norms(report: Report, images: ImageSet, norms: dict[str, Norms]) -> None:
    """Add the norms of the patch tokens, with outliers framed.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        norms (dict): Name of each network -> its norms of these images.
    """
    rows = [Row('image', images.pixels)]
    for name, own in norms.items():
        maps, scale = norm_pixels(own)
        panels = [
            Panel(pixels, partial(draw_outliers, outliers=outliers, size=images.size))
            for pixels, outliers in zip(maps, own.outliers)
        ]
        rows.append(Row(name, panels, scale))
    numbers = '; '.join(f'{name}: {own.summary}' for name, own in norms.items())
    report.add_picture(
        'norms',
        'Norms of patch tokens',
        f'{NORMS_NOTE} {numbers}.',
        sheet_figure(rows, image_titles(images)),
    )
