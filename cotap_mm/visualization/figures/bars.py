"""Bar charts that compare backbones, one panel per metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .canvas import FAINT, INK, SERIES, Pixels, new_figure, render, styled


@styled
def comparison_figure(results: Sequence[Any]) -> Pixels:
    """Draw the headline values as bars.

    Args:
        results (sequence): :class:`cotap_mm.evaluation.evaluate.Result`, at least one. Values
            that are None or NaN have no bar.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is no result.
    """
    if not results:
        raise ValueError('there must be at least one result, got none')
    panels = list(
        dict.fromkeys((result.protocol, result.metric, result.data) for result in results)
    )
    names = list(dict.fromkeys(result.backbone for result in results))
    colors = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    label = 0.075 * max(map(len, names))  # width of the names in inches
    figure = new_figure(label + 2.9 * columns, rows * (0.9 + 0.3 * len(names)))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for index, (panel, axis) in enumerate(zip(panels, axes)):
        members = [r for r in results if (r.protocol, r.metric, r.data) == panel]
        _bars(axis, members, names, colors)
        axis.set_title(f'{panel[0]}, {panel[2]}')
        axis.set_xlabel(f'{panel[1]}, %')
        axis.set_yticks(
            range(len(names)), names if index % columns == 0 else [''] * len(names), color=INK
        )
    for axis in axes[len(panels) :]:
        axis.axis('off')
    return render(figure)


def _bars(axis: Any, results: Sequence[Any], names: list[str], colors: dict) -> None:
    results = [r for r in results if r.value is not None and not math.isnan(r.value)]
    largest = max((result.value for result in results), default=0)
    for result in results:
        row, value = names.index(result.backbone), result.value
        axis.barh(row, value, color=colors[result.backbone], height=0.62)
        axis.text(value + 0.015 * largest, row, f'{value:.1f}', va='center', color=INK)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axis.set_xlim(0, max(1e-9, 1.18 * largest))
    axis.tick_params(length=0, colors=FAINT)
    for side in ('top', 'right', 'left'):
        axis.spines[side].set_visible(False)
