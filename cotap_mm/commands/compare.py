"""Comparison of backbones with the options of ``cotap compare``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch

from cotap_mm.command_line.table import print_table
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets import open_images
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.distributed.collectives import rank
from cotap_mm.distributed.failures import abort_all_ranks_on_error
from cotap_mm.distributed.process_group import joined_processes
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.data.evaluation_data import EvaluationData
from cotap_mm.evaluation.data.load import load_data
from cotap_mm.evaluation.evaluate import Result, headline_rows
from cotap_mm.files.overwrite import check_replaceable
from cotap_mm.visualization.figures.bars import comparison_figure
from cotap_mm.visualization.report.html import Report, is_report
from cotap_mm.visualization.report.inputs import ReportInputs, ReportOptions
from cotap_mm.visualization.report.kinds import make_report

from .evaluate import check_arguments, load_backbone, measure_encoder, parse_backbones

#: Kind of data -> protocols by default, and those that ``--full`` adds.
_PROTOCOLS = {
    'segmentation': (['dense-retrieval'], ['linear-seg']),
    'classification': (['knn'], ['linear']),
    'video': (['video'], []),
}
_LOWER_IS_BETTER = ('dispersion',)


class Comparison(NamedTuple):
    """Result of a comparison.

    Attributes:
        results (list[Result]): One per backbone and protocol.
        report (Path): HTML page with table, plot and pictures.
    """

    results: list[Result]
    report: Path

    def rows(self) -> list[list[str]]:
        """Table of the scores: the headings, then a row per backbone."""
        return headline_rows(self.results)


class DataImages:
    """Images of evaluation data, in the form that reports take.

    Args:
        dataset: Data set of ``dict(image=uint8 (3, H, W), ...)``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._images, self._indices = getattr(dataset, 'images', None), None
        if self._images is None and hasattr(dataset, 'dataset'):  # a subset
            self._images = getattr(dataset.dataset, 'images', None)
            self._indices = getattr(dataset, 'indices', None)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Name of an image; its number if the data set has no names."""
        if self._images is None:
            return f'image {index}'
        return self._images.name(index if self._indices is None else self._indices[index])

    def read(self, index: int) -> np.ndarray:
        """Read pixels, shape (H, W, 3), uint8."""
        return self.dataset[index]['image'].permute(1, 2, 0).contiguous().numpy()


def compare(
    args: argparse.Namespace,
    encoders: Optional[dict[str, Encoder]] = None,
    data: Optional[EvaluationData] = None,
) -> Comparison:
    """Evaluate all backbones and write the report; the same on all ranks.

    Args:
        args (argparse.Namespace): Options of ``cotap compare``.
        encoders (dict, optional): Title -> encoder, instead of ``args.backbones``.
        data (EvaluationData, optional): Data, instead of that of the options.

    Returns:
        Comparison: Scores and report.

    Raises:
        ValueError: If there are fewer than two backbones, or an option is wrong.
    """
    titles = list(encoders) if encoders else [b.title for b in parse_backbones(args.backbones)]
    if len(titles) < 2:
        raise ValueError(
            f'a comparison needs at least two backbones, got {titles[0]}; cotap evaluate '
            'evaluates a single one'
        )
    page = Path(args.out) / 'report.html'
    check_replaceable(page, is_report, 'a report of this tool', args.overwrite)
    if data is None:
        data = load_data(args.data, args.root, args.classes, args.limit, args.value_range or 'auto')
    usual, more = _PROTOCOLS[data.kind]
    args.protocol = args.protocol or [*usual, *(more if args.full else [])]
    check_arguments(args)
    files: dict[str, str] = {}
    if encoders is None:
        backbones = parse_backbones(args.backbones)
        encoders = {b.title: load_backbone(b, args) for b in backbones}
        files = {b.title: b.checkpoint for b in backbones}
    results = []
    for title, encoder in encoders.items():
        results += measure_encoder(encoder, title, data, args)
    if rank() == 0:
        _report(args, encoders, files, data, results).save(args.out)
    return Comparison(results, page)


def _report(
    args: argparse.Namespace,
    encoders: dict[str, Encoder],
    files: dict[str, str],
    data: EvaluationData,
    results: list[Result],
) -> Report:
    counts = ', '.join(f'{count} of {part}' for part, count in results[0].images.items())
    report = Report('Comparison', f'{", ".join(encoders)} on {data.name} (images: {counts}).')
    headings, *rows = headline_rows(results)
    first = [result for result in results if result.protocol == results[0].protocol]
    values = [math.nan if result.value is None else result.value for result in first]
    choose = np.nanargmin if first[0].protocol in _LOWER_IS_BETTER else np.nanargmax
    best = [] if all(map(math.isnan, values)) else [int(choose(values))]
    report.add_table(
        'Scores',
        'In percent; higher is better, except for dispersion. Bold: the best of the first column.',
        headings,
        rows,
        strong=best,
    )
    report.add_picture('comparison', 'Scores', 'The same as bars.', comparison_figure(results))
    pictures = _pictures(args, encoders, files, data)
    if pictures is not None:
        report.sections += pictures.sections
        report.pictures.update(pictures.pictures)
    settings = {
        result.protocol: ', '.join(f'{key}={value}' for key, value in result.parameters.items())
        for result in results
    }
    report.add_table(
        'Settings', 'Of each protocol.', ['protocol', 'settings'], list(settings.items())
    )
    return report


def _pictures(
    args: argparse.Namespace,
    encoders: dict[str, Encoder],
    files: dict[str, str],
    data: EvaluationData,
) -> Optional[Report]:
    """Pictures of all backbones side by side; None if the data have no single images.

    Args:
        args (argparse.Namespace): Options of ``cotap compare``.
        encoders (dict): Title -> encoder.
        files (dict): Title -> file or name of the weights, where it is known.
        data (EvaluationData): Whose images are shown, unless ``args.images`` is set.
    """
    labels = None
    if args.images:
        source: Any = open_images(args.images, args.ann_file, args.value_range or 'auto')
    elif data.kind == 'video':
        print('pictures: skipped, videos need --images')
        return None
    else:
        source = DataImages(data.val)
        labels = data.val if data.kind == 'segmentation' else None
    options = ReportOptions(
        size=args.size, limit=args.shown, classes=data.classes if labels is not None else None
    )
    torch.manual_seed(args.seed)
    inputs = ReportInputs(encoders, source, labels, options)
    weights = {
        title: f'{files.get(title, "")} (weights {encoder.weights_hash()})'.lstrip()
        for title, encoder in encoders.items()
    }
    return make_report(inputs, weights, args.kinds)


def run(args: argparse.Namespace) -> None:
    """Compare on all ranks, and show the results on the first one."""
    with report_user_errors(BadImage), joined_processes(args.device) as args.device:
        with abort_all_ranks_on_error():
            comparison = compare(args)
        is_first = rank() == 0
    if is_first:
        headings, *rows = comparison.rows()
        print_table(headings, rows)
        print(f'report: {comparison.report}')
