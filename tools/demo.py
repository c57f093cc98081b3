"""Watch CoTAP learn: train on toy scenes, measure, and write a report with pictures.

    python tools/demo.py                      # one seed, a few minutes on two cores
    python tools/demo.py --seeds 0 1 2        # with the spread over seeds
    python tools/demo.py --from-scratch       # without the shipped init

The report is ``work_dirs/demo/report.html``; ``results.json`` beside it has all numbers.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from torch import nn

from cotap_mm.command_line.arguments import Parser, out_folder, positive_int, whole_number
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.engine.launch import runner as launch
from cotap_mm.engine.launch.validation import check_config
from cotap_mm.engine.launch.values import check_values
from cotap_mm.engine.resume.work_folder import held_folder
from cotap_mm.evaluation import (
    CoTAPEncoder,
    Encoder,
    LabeledScenes,
    LabeledSet,
    ViTEncoder,
    dense_retrieval,
)
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.registry import DATASETS, MODELS, build
from cotap_mm.visualization import Report, curves, read_scalars
from cotap_mm.visualization.report import before_after

ROOT = Path(__file__).resolve().parents[1]
# Rows of the table: name -> (before or after training, branch, output).
REFERENCE = 'random weights, backbone'
MEASURED = {
    'init, backbone': ('before', 'student', 'backbone'),
    'init, filter (untrained)': ('before', 'student', 'filter'),
    'CoTAP student, backbone': ('after', 'student', 'backbone'),
    'CoTAP student, filter': ('after', 'student', 'filter'),
    'CoTAP teacher, backbone': ('after', 'teacher', 'backbone'),
    'CoTAP teacher, filter': ('after', 'teacher', 'filter'),
}


class Trained(NamedTuple):
    """One run: random weights, the network as training found it and as training left it."""

    random: nn.Module
    before: nn.Module
    after: nn.Module
    work_dir: Path
    minutes: float
    dataset: Any


class DemoHook(Hook):
    """Copies the network after initialisation, before the first step; shows progress."""

    def before_train(self, runner: Runner) -> None:
        """Copy the network."""
        model = unwrap(runner.model)
        self.before = copy.deepcopy(model)
        self.bar = ProgressBar(runner.max_iters)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Move the progress bar."""
        self.bar.update()


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--config', default=str(ROOT / 'configs/cotap/demo.py'))
    parser.add_argument('--work-dir', type=out_folder, default='work_dirs/demo')
    parser.add_argument('--seeds', type=whole_number(0, 2**32 - 1), nargs='+', default=[0])
    parser.add_argument('--iters', type=positive_int, help='instead of the number in the config')
    parser.add_argument('--from-scratch', action='store_true', help='random initial weights')
    return parser.parse_args(argv)


def train(config: Config, seed: int, folder: Path) -> Trained:
    """Train with one seed."""
    config = copy.deepcopy(config)
    config.work_dir = str(folder)
    config.randomness = dict(seed=seed)
    with report_user_errors():
        ensure_neighbors(config, folder)
    config.experiment_name = f'demo_seed_{seed}'
    config.log_level = 'WARNING'  # the progress bar and the report say the rest
    runner, hook = Runner.from_cfg(config), DemoHook()
    runner.register_hook(hook)
    start = time.monotonic()
    launch.train(runner)
    minutes = (time.monotonic() - start) / 60
    after = unwrap(runner.model)
    random = build(MODELS, config.model.backbone)
    random.init_weights()
    return Trained(
        random, hook.before, after, Path(runner.work_dir), minutes, runner.train_dataloader.dataset
    )


def measure(run: Trained, memory: Any, queries: Any, num_classes: int) -> dict[str, dict]:
    """Dense retrieval of every row of the table."""
    networks = dict(before=run.before, after=run.after)
    encoders: dict[str, Encoder] = {REFERENCE: ViTEncoder(run.random)}
    for name, (when, branch, output) in MEASURED.items():
        encoders[name] = CoTAPEncoder(networks[when], branch, output)
    return {
        name: dense_retrieval(
            encoder, LabeledSet(memory, num_classes), LabeledSet(queries, num_classes)
        )
        for name, encoder in encoders.items()
    }


def named(scores: dict[str, dict], classes: Sequence[str]) -> dict[str, dict]:
    """Scores with names of classes; one that never occurs is left out (JSON has no NaN)."""
    return {
        name: dict(
            found,
            IoU={label: value for label, value in zip(classes, found['IoU']) if value == value},
        )
        for name, found in scores.items()
    }


def summarize(scores: dict[int, dict[str, dict]]) -> list[list]:
    """Rows (name, mean mIoU, spread, gain over the init), each in points of mIoU."""
    rows = []
    values = {
        name: [each[name]['mIoU'] for each in scores.values()] for name in [REFERENCE, *MEASURED]
    }
    start = values['init, backbone']
    for name, found in values.items():
        gains = [value - first for value, first in zip(found, start)]
        spread = f'{statistics.stdev(found):.2f}' if len(found) > 1 else '-'
        rows.append([name, statistics.mean(found), spread, f'{statistics.mean(gains):+.2f}'])
    return rows


def make_report(run: Trained, rows: list[list], scenes: Any, memory: Any, intro: str) -> Report:
    """All numbers and pictures; the pictures are of one run."""
    images = [scenes.read(i) for i in range(min(24, len(scenes)))]
    labels = [scenes.label(i) for i in range(len(images))]
    networks = dict(before=run.before, after=run.after)
    report = Report('CoTAP on toy scenes', intro)
    report.add_table(
        'Dense retrieval on the test scenes',
        'mIoU in per cent: patches take the labels of the most similar patches of a labelled '
        'memory, nothing is trained for it. Spread: standard deviation over seeds, of training '
        'and of the random weights. '
        'In bold: the best.',
        ['features', 'mIoU', 'spread', 'against init'],
        rows,
        strong=[max(range(len(rows)), key=lambda i: rows[i][1])],
    )
    before_after.add_crops(report, run.dataset)
    before_after.add_foreground(report, networks, images)
    before_after.add_components(report, networks, images)
    example = before_after.choose_example(
        CoTAPEncoder(run.before, 'student', 'backbone'), images, labels, scenes.CLASSES
    )
    before_after.add_similarity(report, networks, images, example)
    before_after.add_retrieval(
        report,
        {
            'before,\nbackbone': CoTAPEncoder(run.before, 'student', 'backbone'),
            'after,\nfilter': CoTAPEncoder(run.after, 'student', 'filter'),
        },
        memory,
        scenes,
    )
    before_after.add_prototypes(report, run.after, images)
    report.add_picture(
        'curves',
        'Losses and monitors',
        'What was logged while training.',
        curves(read_scalars(run.work_dir)),
    )
    return report


def print_table(rows: list[list]) -> None:
    print(f'\n{"features":<28}{"mIoU":>8}{"spread":>9}{"against init":>15}')
    for name, value, spread, gain in rows:
        print(f'{name:<28}{value:>8.2f}{spread:>9}{gain:>15}')


def read_config(args: argparse.Namespace) -> Config:
    """The config with what the command line changes in it."""
    config = load_config(args.config)
    if 'demo' not in config:
        raise ValueError(
            f'{args.config} must have demo=dict(memory=..., test=...), two configs of '
            'ToyScenes or a data set like it; see configs/cotap/demo.py'
        )
    if args.iters is not None:
        config.train_cfg.max_iters = args.iters
    if args.from_scratch:
        config.model.init_cfg = None
    check_values(config)
    check_config(config)
    return config


def run_demo(args: argparse.Namespace, config: Config, scenes: Any, memory: Any) -> None:
    """Train and measure with each seed, then write the report."""
    folder = Path(args.work_dir)
    scores: dict[int, dict[str, dict]] = {}
    first = None
    for number, seed in enumerate(args.seeds, start=1):
        print(
            f'seed {seed} ({number} of {len(args.seeds)}): '
            f'training {config.train_cfg.max_iters} iterations'
        )
        run = train(config, seed, folder / f'seed_{seed}')
        print(f'\ntrained in {run.minutes:.1f} minutes; measuring on {len(scenes)} test scenes')
        scores[seed] = measure(run, memory, LabeledScenes(scenes), len(scenes.CLASSES))
        first = first or run
    rows = summarize(scores)
    start = 'the shipped self-supervised init' if config.model.get('init_cfg') else 'random weights'
    intro = (
        f'A small ViT, started from {start}, trained with CoTAP for '
        f'{config.train_cfg.max_iters} iterations without any label, seed '
        f'{", ".join(map(str, args.seeds))}. The pictures are of seed {args.seeds[0]}.'
    )
    page = make_report(first, rows, scenes, memory, intro).save(folder)
    results = dict(
        config=args.config,
        iterations=config.train_cfg.max_iters,
        from_scratch=args.from_scratch,
        minutes=first.minutes,
        seeds={seed: named(found, scenes.CLASSES) for seed, found in scores.items()},
    )
    with atomic_write(folder / 'results.json') as partial:
        partial.write_text(json.dumps(results, indent=2))
    print_table(rows)
    print(f'\nreport: {page}\nnumbers: {folder / "results.json"}')


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    folder = Path(args.work_dir)
    with report_user_errors():
        config = read_config(args)
        scenes = build(DATASETS, config.demo.test)
        memory = LabeledScenes(build(DATASETS, config.demo.memory))
    with held_folder(folder):
        run_demo(args, config, scenes, memory)


if __name__ == '__main__':
    main()
