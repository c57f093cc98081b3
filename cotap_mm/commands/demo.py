"""Training, evaluation and report of ``cotap demo``."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from cotap_mm import signals
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.table import print_table
from cotap_mm.command_line.tool import report_user_errors
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
from cotap_mm.evaluation.batches import progress_bars
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.progress import Progress
from cotap_mm.registry import DATASETS, MODELS, build
from cotap_mm.visualization import Report, curves, read_scalars
from cotap_mm.visualization.report import before_after
from cotap_mm.visualization.report.example import choose_example

# Rows of the table: name -> (before or after training, network, output).
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
    """One run: a random backbone, and the network before and after training."""

    random: nn.Module
    before: nn.Module
    after: nn.Module
    work_dir: Path
    minutes: float
    dataset: Any


class DemoHook(Hook):
    """Copies the network before the first step; shows the progress."""

    def before_train(self, runner: Runner) -> None:
        """Copy the network."""
        model = unwrap(runner.model)
        self.before = copy.deepcopy(model)
        self.progress = Progress(runner.max_iters, 'training')

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Advance the progress."""
        self.progress.update()

    def after_train(self, runner: Runner) -> None:
        """Remove the progress bar."""
        self.progress.close()


def train(config: Config, seed: int, folder: Path) -> Trained:
    """Train with one seed."""
    config = copy.deepcopy(config)
    config.work_dir = str(folder)
    config.randomness = dict(seed=seed)
    with report_user_errors():
        ensure_neighbors(config, folder)
    config.experiment_name = f'demo_seed_{seed}'
    config.log_level = 'WARNING'  # the progress bar and the report show the rest
    runner, hook = Runner.from_cfg(config), DemoHook()
    runner.register_hook(hook)
    start = time.monotonic()
    try:
        launch.train(runner)
    except signals.Stopped as stopped:
        raise signals.Stopped(
            stopped.name, 'The demo does not resume; start it again with the same command'
        ) from None
    minutes = (time.monotonic() - start) / 60
    after = unwrap(runner.model)
    random = build(MODELS, config.model.backbone)
    random.init_weights()
    return Trained(
        random, hook.before, after, Path(runner.work_dir), minutes, runner.train_dataloader.dataset
    )


def measure(run: Trained, memory: Any, queries: Any, num_classes: int) -> dict[str, dict]:
    """Evaluate dense retrieval for every row of the table."""
    models = dict(before=run.before, after=run.after)
    encoders: dict[str, Encoder] = {REFERENCE: ViTEncoder(run.random)}
    for name, (when, network, output) in MEASURED.items():
        encoders[name] = CoTAPEncoder(models[when], network, output)
    sets = LabeledSet(memory, num_classes), LabeledSet(queries, num_classes)
    scores = {}
    for number, (name, encoder) in enumerate(encoders.items(), start=1):
        print(f'evaluating {name} ({number} of {len(encoders)})')
        scores[name] = dense_retrieval(encoder, *sets)
    return scores


def with_class_names(scores: dict[str, dict], classes: Sequence[str]) -> dict[str, dict]:
    """Name the IoU of each class; skip classes that never occur (JSON has no NaN)."""
    return {
        name: dict(
            own,
            IoU={label: value for label, value in zip(classes, own['IoU']) if value == value},
        )
        for name, own in scores.items()
    }


def summarize(scores: dict[int, dict[str, dict]]) -> list[list]:
    """Return rows (name, mean mIoU, standard deviation, gain over the init), in % mIoU."""
    rows = []
    values = {
        name: [own[name]['mIoU'] for own in scores.values()] for name in [REFERENCE, *MEASURED]
    }
    start = values['init, backbone']
    for name, own in values.items():
        gains = [value - first for value, first in zip(own, start)]
        deviation = f'{statistics.stdev(own):.2f}' if len(own) > 1 else '-'
        rows.append([name, statistics.mean(own), deviation, f'{statistics.mean(gains):+.2f}'])
    return rows


def make_report(run: Trained, rows: list[list], scenes: Any, memory: Any, intro: str) -> Report:
    """Build the report; its pictures are of one run."""
    images = [scenes.read(i) for i in range(min(24, len(scenes)))]
    labels = [scenes.label(i) for i in range(len(images))]
    networks = dict(before=run.before, after=run.after)
    report = Report('CoTAP on toy scenes', intro)
    report.add_table(
        'Dense retrieval on the test scenes',
        'mIoU in %: each patch takes the labels of the most similar patches of a labeled memory; '
        'nothing is trained. Std: standard deviation over seeds of training and of the random '
        'weights. The best result is bold.',
        ['features', 'mIoU', 'std', 'gain over init'],
        rows,
        strong=[max(range(len(rows)), key=lambda i: rows[i][1])],
    )
    before_after.add_training_crops(report, run.dataset)
    example = choose_example(
        CoTAPEncoder(run.before, 'student', 'backbone'), images, labels, scenes.CLASSES
    )
    before_after.add_networks(report, networks, images, example)
    before_after.add_retrieval(
        report,
        {
            'before,\nbackbone': CoTAPEncoder(run.before, 'student', 'backbone'),
            'after,\nfilter': CoTAPEncoder(run.after, 'student', 'filter'),
        },
        memory,
        scenes,
    )
    before_after.add_student_prototypes(report, 'after training', run.after, images)
    report.add_picture(
        'curves',
        'Losses and monitors',
        'Values logged during training.',
        curves(read_scalars(run.work_dir)),
    )
    return report


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the options of the command line."""
    config = load_config(args.config)
    if 'demo' not in config:
        raise ValueError(
            f'{args.config} must have demo=dict(memory=..., test=...), two configs of '
            'ToyScenes or a similar data set; see configs/cotap/demo.py'
        )
    if args.iters is not None:
        config.train_cfg.max_iters = args.iters
    if args.from_scratch:
        config.model.init_cfg = None
    check_values(config)
    check_config(config)
    return config


def run_demo(args: argparse.Namespace, config: Config, scenes: Any, memory: Any) -> None:
    """Train and evaluate with each seed, then write the report."""
    folder = Path(args.work_dir)
    scores: dict[int, dict[str, dict]] = {}
    runs: list[Trained] = []
    for number, seed in enumerate(args.seeds, start=1):
        print(
            f'seed {seed} ({number} of {len(args.seeds)}): '
            f'training {config.train_cfg.max_iters} iterations'
        )
        run = train(config, seed, folder / f'seed_{seed}')
        print(f'trained in {run.minutes:.1f} minutes; {len(scenes)} test scenes')
        with progress_bars():
            scores[seed] = measure(run, memory, LabeledScenes(scenes), len(scenes.CLASSES))
        runs = runs or [run]  # only the first one is shown
    rows, first = summarize(scores), runs[0]
    start = (
        'the shipped self-supervised weights' if config.model.get('init_cfg') else 'random weights'
    )
    intro = (
        f'A small ViT, initialized from {start} and trained with CoTAP for '
        f'{config.train_cfg.max_iters} iterations without labels, '
        f'{"seed" if len(args.seeds) == 1 else "seeds"} {", ".join(map(str, args.seeds))}. '
        f'The pictures are of seed {args.seeds[0]}.'
    )
    page = make_report(first, rows, scenes, memory, intro).save(folder)
    results = dict(
        config=args.config,
        iterations=config.train_cfg.max_iters,
        from_scratch=args.from_scratch,
        minutes=first.minutes,
        seeds={seed: with_class_names(own, scenes.CLASSES) for seed, own in scores.items()},
    )
    with atomic_write(folder / 'results.json') as partial:
        partial.write_text(json.dumps(results, indent=2))
    print_table(
        ['features', 'mIoU', 'std', 'gain over init'],
        [[name, f'{value:.2f}', *others] for name, value, *others in rows],
    )
    print(f'\nreport: {page}\nnumbers: {folder / "results.json"}')


def run(args: argparse.Namespace) -> None:
    """Read the config and build the data, then train and evaluate in the work folder."""
    folder = Path(args.work_dir)
    with report_user_errors():
        config = read_config(args)
        scenes = build(DATASETS, config.demo.test)
        memory = LabeledScenes(build(DATASETS, config.demo.memory))
    with held_folder(folder):
        run_demo(args, config, scenes, memory)
