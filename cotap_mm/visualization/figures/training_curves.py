"""Plot losses and monitors of a run from MMEngine's log."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .canvas import FAINT, SERIES, Pixels, new_figure, render, styled

Curve = tuple[list[float], list[float]]  # steps, values
# Bookkeeping values that MMEngine logs next to those of the model; not worth a panel.
_CLOCKS = ('base_lr', 'data_time', 'epoch', 'eta', 'grad_norm', 'iter', 'memory', 'step', 'time')


def read_scalars(path: Union[str, Path]) -> dict[str, Curve]:
    """Read the scalars that MMEngine's ``LocalVisBackend`` wrote.

    Args:
        path (str | Path): ``scalars.json``, or a work directory, whose newest
            ``*/vis_data/scalars.json`` is read.

    Returns:
        dict: Name -> (steps, values); values that are not numbers are skipped.

    Raises:
        FileNotFoundError: If the work directory has no such file.
    """
    path = Path(path)
    if path.is_dir():
        logs = sorted(path.glob('*/vis_data/scalars.json'))
        if not logs:
            raise FileNotFoundError(f'no */vis_data/scalars.json in {path}')
        path = logs[-1]
    scalars: dict[str, Curve] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name not in _CLOCKS and isinstance(value, (int, float)) and 'step' in record:
                steps, values = scalars.setdefault(name, ([], []))
                steps.append(record['step'])
                values.append(value)
    return scalars


def _panel_of(name: str) -> str:
    """Return the panel of a curve: student and teacher of one metric share a panel."""
    return re.sub(r'_(student|teacher)(?=_|$)', '', name)


def _label(name: str) -> str:
    return name.replace('monitor/', '').replace('dense_retrieval/', 'retrieval ').replace('_', ' ')


def _draw(axes: Axes, curves: dict[str, Curve], title: str) -> None:
    for color, (name, (steps, values)) in zip(SERIES, curves.items()):
        marker = 'o' if len(steps) < 12 else None
        axes.plot(steps, values, color=color, lw=1.6, marker=marker, ms=3.5, label=_label(name))
    axes.set_title(textwrap.fill(title, 28), loc='left')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', color='#e4e7eb', lw=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02, y=0.12)
    finite = np.array([v for _, values in curves.values() for v in values if np.isfinite(v)])
    if finite.size and np.ptp(finite) <= 1e-9 * max(1, abs(finite[0])):
        # Otherwise the axis of a constant would show rounding errors.
        half = max(abs(finite[0]), 1e-3) * 0.1
        axes.set_ylim(finite[0] - half, finite[0] + half)
    if len(curves) > 1:
        axes.legend(
            labels=[_short(name) for name in curves], frameon=False, fontsize=7.5, handlelength=1.2
        )


def _short(name: str) -> str:
    words = re.findall(r'student|teacher', name)
    return ' '.join(words + (['(backbone)'] if name.endswith('_backbone') else [])) or _label(name)


@styled
def curves(
    scalars: dict[str, Curve],
    names: Optional[Sequence[str]] = None,
    columns: int = 4,
    title: Optional[str] = None,
) -> Pixels:
    """Plot all logged values in small panels: evaluation metrics, losses, then the rest.

    Args:
        scalars (dict): Name -> (steps, values), as :func:`read_scalars` returns.
        names (sequence, optional): Values to plot. Defaults to None (all).
        columns (int): Number of panels in a row. Defaults to 4.
        title (str, optional): Text above the figure. Defaults to None.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If there is nothing to plot, or a name was not logged.
    """
    names = list(scalars) if names is None else list(names)
    missing = [name for name in names if name not in scalars]
    if missing or not names:
        raise ValueError(f'cannot plot {missing or "nothing"}; the log has {sorted(scalars)}')
    order = ('dense_retrieval/', 'loss', 'monitor/')
    names.sort(
        key=lambda name: next(
            (i for i, prefix in enumerate(order) if name.startswith(prefix)), len(order)
        )
    )
    panels: dict[str, dict[str, Curve]] = {}
    for name in names:
        panels.setdefault(_panel_of(name), {})[name] = scalars[name]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(columns * 2.5, rows * 1.75 + (0.4 if title else 0))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, members) in zip(grid, panels.items()):
        _draw(axes, members, _label(panel))
    for axes in grid[len(panels) :]:
        axes.axis('off')
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel('iteration', color=FAINT, fontsize=8)
    if title:
        figure.suptitle(title)
    return render(figure)
