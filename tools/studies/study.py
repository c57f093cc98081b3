"""Helpers of the studies: stored and resumed runs, tables, plots, results written to a page.

A study is a list of jobs, dictionaries that JSON can hold, and a function that turns one into
numbers. The tool writes three things beside one another: ``NAME.json`` (every run, and where it
was made), ``NAME.png`` and, between two marks of ``NAME.md``, the tables. The words around them
are written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from matplotlib.lines import Line2D
from study_runs import Job, Record, run_jobs

from cotap_mm.command_line.arguments import out_folder, whole_number
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.engine.resume.work_folder import held_folder
from cotap_mm.environment import environment_info
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.visualization.figures.canvas import INK, SERIES, new_figure, render, save_png, styled

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs' / 'studies'
__all__ = [
    'DOCS',
    'ROOT',
    'Job',
    'Panel',
    'Record',
    'Summary',
    'add_folders',
    'fill_page',
    'finish',
    'machine',
    'plot_panels',
    'read_json',
    'run_jobs',
    'seed',
    'series_style',
    'shown',
    'summarize',
    'write_json',
]
#: Type of an argument: a seed that NumPy and PyTorch take.
seed = whole_number(0, 2**32 - 1)


class Summary(NamedTuple):
    """Of one value over seeds."""

    mean: float
    spread: float  # standard deviation, 0 for one seed
    count: int


# ---- results -----------------------------------------------------------------------------


def machine(device: str = 'cpu') -> dict[str, str]:
    """Where and with what a study ran."""
    import numpy
    import sklearn

    return dict(environment_info(device), numpy=numpy.__version__, sklearn=sklearn.__version__)


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results; lists of dictionaries get a line for each."""

    def lines(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return '[\n' + ',\n'.join('  ' + json.dumps(each) for each in value) + '\n ]'
        return json.dumps(value)

    body = ',\n'.join(f' {json.dumps(key)}: {lines(value)}' for key, value in results.items())
    with atomic_write(path) as partial:
        partial.write_text(f'{{\n{body}\n}}\n', encoding='utf-8')


def read_json(path: Path) -> dict[str, Any]:
    """Read a file written by :func:`write_json`.

    Raises:
        FileNotFoundError: If the study has not been run.
        ValueError: If the file is not one of a study.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; run the study without --plot-only first')
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} must hold the results of this study, and is not JSON ({error}); '
            'run the study without --plot-only'
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get('runs'), list):
        raise ValueError(
            f'{path} must hold the results of this study, and has no runs; run the '
            'study without --plot-only'
        )
    return found


# ---- numbers -------------------------------------------------------------------------------


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Arguments that all studies have."""
    parser.add_argument(
        '--out',
        type=lambda text: Path(out_folder(text)),
        default=DOCS,
        metavar='DIR',
        help='folder of the results',
    )
    parser.add_argument(
        '--work-dir',
        type=lambda text: Path(out_folder(text)),
        default=Path('work_dirs/studies'),
        metavar='DIR',
    )
    parser.add_argument('--plot-only', action='store_true', help='from the JSON in --out')


def finish(
    name: str,
    args: argparse.Namespace,
    run: Callable[[Any], dict[str, Any]],
    report: Callable[[dict[str, Any], Path], None],
) -> None:
    """Run the study unless only plots are wanted, store the results as JSON, and report them.

    Args:
        name (str): Name of the study and its files.
        args (argparse.Namespace): With what :func:`add_folders` adds.
        run (callable): Arguments -> results.
        report (callable): Results and folder -> page and plot.
    """
    path = args.out / f'{name}.json'
    with report_user_errors():
        if args.plot_only:
            read_json(path)
        check_page(args.out / f'{name}.md', 'results')
        if not args.plot_only:
            with held_folder(args.work_dir, name, f'.{name}.lock'):
                write_json(path, run(args))
        report(read_json(path), args.out)
    print(f'results: {args.out / name}.md, .png and .json')


def summarize(records: Iterable[Record], keys: Sequence[str], value: str) -> dict[tuple, Summary]:
    """Compute mean and spread over all fields not in ``keys``, usually the seed.

    Args:
        records (iterable): From :func:`run_jobs`.
        keys (sequence[str]): Names that tell the groups apart.
        value (str): Name of the number.

    Returns:
        dict: Values of ``keys`` -> summary, in the order of first occurrence. Lists in keys
        become tuples.
    """
    groups: dict[tuple, list[float]] = {}
    for record in records:
        group = tuple(tuple(record[k]) if isinstance(record[k], list) else record[k] for k in keys)
        groups.setdefault(group, []).append(record[value])
    return {
        group: Summary(
            statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0, len(found)
        )
        for group, found in groups.items()
    }


def shown(summary: Optional[Summary], strong: bool = False) -> str:
    """``61.2 ± 0.8`` for a table; a dash for what was not measured."""
    if summary is None:
        return '-'
    text = f'{summary.mean:.1f}' + (f' ± {summary.spread:.1f}' if summary.count > 1 else '')
    return f'**{text}**' if strong else text


def fill_page(path: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    A page that does not exist is begun; a page without the marks is an error, since words
    written by hand are not to be lost.

    Raises:
        ValueError: If the page has no such marks.
    """
    begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
    page, pattern = check_page(path, name)
    with atomic_write(path) as partial:
        partial.write_text(
            pattern.sub(lambda _: f'{begin}\n{text.strip()}\n{end}', page), encoding='utf-8'
        )


def check_page(path: Path, name: str) -> tuple[str, re.Pattern[str]]:
    """Read a page and check that :func:`fill_page` can fill it, before a study runs for hours.

    Returns:
        tuple: The text, and a pattern of what is replaced.

    Raises:
        ValueError: If the page has no such marks.
    """
    begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
    page = path.read_text(encoding='utf-8') if path.is_file() else f'{begin}\n{end}\n'
    pattern = re.compile(re.escape(begin) + '.*?' + re.escape(end), re.S)
    if len(pattern.findall(page)) != 1:
        raise ValueError(
            f'{path} must have one line {begin} and one line {end} after it; '
            'what stands between them is written by the study'
        )
    return page, pattern


# ---- plots ---------------------------------------------------------------------------------

# Hue, marker and dashes tell the series apart, so that none of them has to be seen.
MARKS = ('o', 's', '^', 'D', 'v', 'P')
DASHES = ('-', (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1.5)), '-')


class Panel(NamedTuple):
    """One pair of axes: name of the series -> x and summary of y, in order."""

    title: str
    series: dict[str, list[tuple[Any, Summary]]]
    x_label: str = ''
    y_label: str = ''
    level: Optional[float] = None  # a dotted reference line
    ticks: Optional[list[str]] = None  # texts for x = 0, 1, ...


def series_style(names: Sequence[str], first: Optional[str] = None) -> dict[str, dict[str, Any]]:
    """Choose a line style per name: up to six, plus ``first``, which is drawn darker and thicker.

    Raises:
        ValueError: If there are more names than styles.
    """
    others = [name for name in names if name != first]
    if len(others) > len(SERIES):
        raise ValueError(
            f'at most {len(SERIES)} series beside the first can be told apart, got {len(others)}'
        )
    style = {
        name: dict(color=color, marker=mark, ls=dash, lw=1.5, ms=4, zorder=3)
        for name, color, mark, dash in zip(others, SERIES, MARKS, DASHES)
    }
    if first is not None:
        style[first] = dict(color=INK, marker='o', ls='-', lw=2.6, ms=5, zorder=4)
    return {name: style[name] for name in names}


@styled
def plot_panels(
    path: Path,
    panels: Sequence[Panel],
    columns: int,
    title: str,
    first: Optional[str] = None,
    level_name: str = '',
    share_y: str = 'none',
    size: tuple[float, float] = (2.6, 2.35),
) -> None:
    """Plot lines with their spread as a band, one panel per setting.

    Args:
        path (Path): PNG to write.
        panels (sequence[Panel]): Row by row.
        columns (int): Panels in a row.
        title (str): Above everything.
        first (str, optional): The series to stand out. Defaults to None.
        level_name (str): What the dotted lines are, for the legend.
        share_y (str): Which panels share the axis of y, as in matplotlib. Defaults to 'none'.
        size (tuple[float, float]): Of a panel, inches.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    styles = series_style(names, first)
    rows = -(-len(panels) // columns)
    legend = len(names) > 1 or bool(level_name)
    figure = new_figure(columns * size[0], rows * size[1] + 0.45 + (0.35 if legend else 0))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    for axes in grid.ravel()[len(panels) :]:
        axes.axis('off')
    for axes, panel in zip(grid.ravel(), panels):
        for name, points in panel.series.items():
            x = [point for point, _ in points]
            mean = [found.mean for _, found in points]
            axes.plot(x, mean, **styles[name])
            axes.fill_between(
                x,
                [f.mean - f.spread for _, f in points],
                [f.mean + f.spread for _, f in points],
                lw=0,
                color=styles[name]['color'],
                alpha=0.16,
            )
        if panel.level is not None:
            axes.axhline(panel.level, color=INK, lw=1, ls=':')
        if panel.ticks:
            axes.set_xticks(range(len(panel.ticks)), panel.ticks)
            axes.margins(x=0.08)
        axes.set_title(panel.title, loc='left')
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', color='#e4e7eb', lw=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelleft=True)
    handles = [Line2D([], [], label=name, **styles[name]) for name in names if len(names) > 1]
    if level_name:
        handles.append(Line2D([], [], color=INK, lw=1, ls=':', label=level_name))
    if handles:
        figure.legend(
            handles=handles,
            loc='outside lower center',
            frameon=False,
            fontsize=8.5,
            ncols=len(handles) if len(handles) <= 4 else -(-len(handles) // 2),
            handlelength=2.8,
        )
    figure.suptitle(title)
    save_png(render(figure), path)
