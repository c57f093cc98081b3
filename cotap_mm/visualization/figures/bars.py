"""Several backbones side by side, one panel for each measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .canvas import FAINT, INK, SERIES, Pixels, new_figure, render, styled


@styled
def comparison_figure(results: Sequence[Any]) -> Pixels:
    """Bars of the headline values.

    Args:
        results (sequence): :class:`cotap_mm.evaluation.evaluate.Result`, at least one. What
            is not a number has no bar.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is no result.
    """
    if not results:
        raise ValueError('there must be at least one result, got none')
    panels = list(dict.fromkeys((each.protocol, each.metric, each.data) for each in results))
    names = list(dict.fromkeys(each.backbone for each in results))
    colors = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    label = 0.075 * max(map(len, names))  # inches that the names take
    figure = new_figure(label + 2.9 * columns, rows * (0.9 + 0.3 * len(names)))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, (panel, axis) in enumerate(zip(panels, axes)):
        found = [each for each in results if (each.protocol, each.metric, each.data) == panel]
        _bars(axis, found, names, colors)
        axis.set_title(f'{panel[0]}, {panel[2]}')
        axis.set_xlabel(f'{panel[1]}, %')
        axis.set_yticks(
            range(len(names)), names if place % columns == 0 else [''] * len(names), color=INK
        )
    for axis in axes[len(panels) :]:
        axis.axis('off')
    return render(figure)


def _bars(axis: Any, found: Sequence[Any], names: list[str], colors: dict) -> None:
    found = [each for each in found if each.value is not None and not math.isnan(each.value)]
    largest = max((each.value for each in found), default=0)
    for each in found:
        row = names.index(each.backbone)
        axis.barh(row, each.value, color=colors[each.backbone], height=0.62)
        axis.text(each.value + 0.015 * largest, row, f'{each.value:.1f}', va='center', color=INK)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axis.set_xlim(0, max(1e-9, 1.18 * largest))
    axis.tick_params(length=0, colors=FAINT)
    for side in ('top', 'right', 'left'):
        axis.spines[side].set_visible(False)
