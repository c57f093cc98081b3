"""Section of a report with the prototype of each patch."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from cotap_mm.visualization.figures.assignments import assign_patches, assignment_overlay
from cotap_mm.visualization.figures.clusters import draw_borders
from cotap_mm.visualization.figures.grid import Panel, Row, sheet_figure

from .html import Report
from .image_set import ImageSet
from .sections import file_name, image_titles


def add_assignments(
    report: Report, images: ImageSet, name: str, attention: Tensor, number: int = 0
) -> None:
    """Add the prototype that stands out in the attention of each patch.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        name (str): Name of the network.
        attention (Tensor): Softmax weights, shape (B, heads, h, w, M).
        number (int): Index of the network, for the file name. Defaults to 0.
    """
    found = assign_patches(attention.float().mean(dim=1))
    count = len(found.prototypes)
    numbers = np.array([*found.prototypes, -1])  # a label is the rank of its prototype
    panels = [
        Panel(
            assignment_overlay(image, labels, count),
            partial(draw_borders, clusters=numbers[labels], size=images.size),
        )
        for image, labels in zip(images.pixels, found.labels)
    ]
    report.add_picture(
        file_name('assignments', number),
        f'Prototype of each patch: {name}',
        'The color and number of the prototype that stands out in the attention of each patch: '
        'the largest weight relative to the mean of the prototype over these images. '
        f'{found.summary(attention.shape[-1])[0].upper()}'
        f'{found.summary(attention.shape[-1])[1:]}. In brackets: share of the patches.',
        sheet_figure(
            [Row('image', images.pixels), Row(name, panels)],
            image_titles(images),
            legend=found.legend,
        ),
    )
