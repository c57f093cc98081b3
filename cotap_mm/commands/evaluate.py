"""Evaluation with the options of ``cotap evaluate``."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch

from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.command_line.table import print_table
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.distributed.collectives import rank
from cotap_mm.distributed.failures import abort_all_ranks_on_error
from cotap_mm.distributed.process_group import joined_processes
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.load import load
from cotap_mm.evaluation.batches import progress_bars
from cotap_mm.evaluation.data.evaluation_data import EvaluationData
from cotap_mm.evaluation.data.load import load_data
from cotap_mm.evaluation.evaluate import (
    Result,
    check_options,
    evaluate,
    headline_rows,
    settings_of,
)
from cotap_mm.evaluation.settings import nearest
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.visualization.figures.bars import comparison_figure
from cotap_mm.visualization.figures.canvas import save_png


class Backbone(NamedTuple):
    """A backbone to evaluate: its title, the argument of ``cotap_mm.load``, and the output."""

    title: str
    checkpoint: str
    output: Optional[str]


def parse_backbones(texts: list[str]) -> list[Backbone]:
    """Parse ``[NAME=]BACKBONE[@filter|@backbone]``; ``ValueError`` if two share a title."""
    matches = [re.fullmatch(r'(.+?)(?:@(filter|backbone))?', text, re.S) for text in texts]
    split = [match.groups() for match in matches if match]  # all match
    unique = list(dict.fromkeys(name for name, _ in split))
    named = dict(zip(unique, named_checkpoints(unique).items()))
    backbones: list[Backbone] = []
    for name, output in split:
        title, checkpoint = named[name]
        if output and not name.startswith(f'{title}='):
            title += f' ({output})'
        if title in [backbone.title for backbone in backbones]:
            raise ValueError(f'two backbones are called {title!r}; write NAME={checkpoint}')
        backbones.append(Backbone(title, checkpoint, output))
    return backbones


def options_of(protocol: str, args: argparse.Namespace) -> dict[str, Any]:
    """Settings for one of the protocols."""
    known = settings_of(protocol)
    options = {key: value for key, value in args.set.items() if key in known}
    if args.image_size:
        size = args.image_size
        options['image_size'] = size[0] if len(size) == 1 else tuple(size)
    return check_options(protocol, options)


def check_arguments(args: argparse.Namespace) -> None:
    """Reject unknown protocols and invalid settings before anything is computed."""
    known = {key: None for name in args.protocol for key in settings_of(name)}
    for key in args.set:
        if key not in known:
            raise ValueError(
                f'--set {key}: {", ".join(args.protocol)} has no such setting{nearest(key, known)}'
            )
    for protocol in args.protocol:
        options_of(protocol, args)


def result_file(
    args: argparse.Namespace,
    protocol: str,
    data: EvaluationData,
    name: str,
    encoder: Encoder,
    options: dict[str, Any],
) -> Path:
    """Path of the result, which depends on protocol, data and folder, weights and settings."""
    sizes = [len(part) for part in (data.train, data.val) if part is not None]
    source = [args.data, str(Path(args.root).resolve()) if args.root else '', list(data.classes)]
    key = [
        protocol,
        source,
        name,
        encoder.weights_hash(),
        type(encoder).__name__,
        args.num_heads,
        getattr(getattr(encoder, 'network', None), 'neck', None) is not None,
        sizes,
        sorted((key, str(value)) for key, value in options.items()),
    ]
    if args.value_range:
        key.append(args.value_range)
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:8]
    plain = re.sub(r'[^A-Za-z0-9._-]+', '-', f'{protocol}_{data.name}_{name}')
    return Path(args.out) / f'{plain}_{digest}.json'


def measure(args: argparse.Namespace) -> list[Result]:
    """Evaluate all backbones with all protocols."""
    check_arguments(args)
    backbones = parse_backbones([*args.backbones, *args.compare])
    data = load_data(args.data, args.root, args.classes, args.limit, args.value_range or 'auto')
    results = []
    for backbone in backbones:
        results += measure_encoder(load_backbone(backbone, args), backbone.title, data, args)
    return results


def load_backbone(backbone: Backbone, args: argparse.Namespace) -> Encoder:
    """Load a backbone with the options of the command line."""
    torch.manual_seed(args.seed)
    return load(
        backbone.checkpoint,
        device=args.device,
        network=args.network,
        trust=args.trust,
        num_heads=args.num_heads,
        output=backbone.output,
    )


def measure_encoder(
    encoder: Encoder, name: str, data: EvaluationData, args: argparse.Namespace
) -> list[Result]:
    """Evaluate an encoder with all protocols, and reuse the results in ``args.out``.

    Args:
        encoder (Encoder): The encoder.
        name (str): Its name in tables.
        data (EvaluationData): The data.
        args (argparse.Namespace): Options of ``cotap evaluate``; without an ``out`` nothing is
            written or reused.

    Returns:
        list[Result]: One per protocol.
    """
    results = []
    for protocol in args.protocol:
        options = options_of(protocol, args)
        file = result_file(args, protocol, data, name, encoder, options) if args.out else None
        if file is not None and file.is_file():
            results.append(read_result(file))
            for message in results[-1].scores.get('warnings', []):
                print_once(f'warning: {message}')
            print_once(f'{name}, {protocol}: reused from {file}')
            continue
        with progress_bars():
            result = evaluate(encoder, data, protocol, name, **options)
        results.append(result)
        print_once(
            f'{name}, {result.protocol} on {result.data}: {result.metric} {result.value:.2f} '
            f'({result.seconds:.0f} s)'
        )
        if file is not None and rank() == 0:
            with atomic_write(file) as unfinished:
                unfinished.write_text(json.dumps(result.to_json(), indent=2))
    return results


def read_result(file: Path) -> Result:
    """Read an existing result.

    Raises:
        ValueError: If the file is damaged, or not a result.
    """
    try:
        return Result(**json.loads(file.read_text(encoding='utf-8')))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{file} is not a result of this tool ({error}); delete it to evaluate again, '
            'or choose another --out'
        ) from error


def print_once(text: str) -> None:
    """Print on rank 0 only."""
    if rank() == 0:
        print(text, flush=True)


def show(results: list[Result], out: Path) -> None:
    """Print a table; for several backbones, also save a plot."""
    headings, *rows = headline_rows(results)
    print_table(headings, rows)
    if len(rows) > 1:
        save_png(comparison_figure(results), out / 'comparison.png')
        print(f'plot: {out / "comparison.png"}')


def run(args: argparse.Namespace) -> None:
    """Evaluate on all ranks, and show the results on the first one."""
    with report_user_errors(), joined_processes(args.device) as args.device:
        with abort_all_ranks_on_error():
            results = measure(args)
        is_first = rank() == 0
    if is_first:
        show(results, Path(args.out))
