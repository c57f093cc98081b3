"""Study: sensitivity to tau, theta, alpha, prototypes, pool sizes and the number of pairs.

    python tools/studies/sensitivity.py                # every parameter, on two cores
    python tools/studies/sensitivity.py --parameters tau theta --seeds 0 1 2
    python tools/studies/sensitivity.py --plot-only    # table and plot from the kept JSON

One parameter at a time leaves its default; everything else is ``configs/cotap/demo.py`` with a
smaller batch, fewer images and far fewer iterations. Measured is dense retrieval with the
student's filter on toy scenes. Runs are kept in --work-dir and not repeated; delete it after
changing the code.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import study
from mmengine.config import Config
from mmengine.runner import Runner

import cotap_mm  # noqa: F401  (registers everything)
from cotap_mm.command_line.arguments import Parser, positive_int
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.table import markdown_table
from cotap_mm.command_line.tool import tool
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.evaluation import CoTAPEncoder, LabeledScenes, LabeledSet, dense_retrieval
from cotap_mm.registry import DATASETS, build

NAME = 'sensitivity'


class Parameter(NamedTuple):
    """A key of the config and the values to try; the default is among them."""

    key: str
    values: Sequence[Any]
    meaning: str


PARAMETERS: dict[str, Parameter] = {
    'tau': Parameter(
        'model.losses.patch_ranking.tau',
        (0.005, 0.02, 0.1, 0.5),
        'gap from which on an order is right',
    ),
    'theta': Parameter(
        'model.losses.patch_ranking.threshold',
        (-1.0, -0.2, 0.2, 0.6),
        'target below which a pair has no weight',
    ),
    'alpha': Parameter(
        'model.losses.patch_ranking.negative_weight',
        (0.0, 0.1, 1.0),
        'weight of pairs with other images',
    ),
    'M': Parameter('model.neck.num_prototypes', (4, 16, 64), 'object prototypes'),
    'pool sizes': Parameter(
        'model.pairs.pool_sizes', ((4,), (4, 8), (8,)), 'grids whose patches are ranked'
    ),
    'patches': Parameter('model.pairs.topk', (2, 5, 8), 'patches an image in the ranking'),
    'negatives': Parameter('model.pairs.num_negatives', (1, 5, 7), 'other images an image'),
}


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--config', default=str(study.ROOT / 'configs/cotap/demo.py'))
    parser.add_argument(
        '--parameters', nargs='+', choices=list(PARAMETERS), default=list(PARAMETERS)
    )
    parser.add_argument('--seeds', type=study.seed, nargs='+', default=[0, 1])
    parser.add_argument('--iters', type=positive_int, default=120)
    parser.add_argument('--batch-size', type=positive_int, default=8)
    parser.add_argument('--train-images', type=positive_int, default=500)
    parser.add_argument(
        '--images', type=positive_int, default=80, help='of the memory, and to segment'
    )
    parser.add_argument('--workers', type=positive_int, default=2, help='processes of one thread')
    study.add_folders(parser)
    args = parser.parse_args(argv)
    if args.batch_size > args.train_images:
        parser.error(
            f'--batch-size must be at most --train-images, {args.train_images}, got '
            f'{args.batch_size}'
        )
    return args


def read_config(name: str) -> Config:
    """Load the base config.

    Raises:
        ValueError: If it does not train on scenes that can be counted and measured on.
    """
    config = load_config(name)
    images = config.get('train_dataloader', {}).get('dataset', {}).get('patch') or {}
    if 'demo' not in config or not str(images.get('type')).endswith('ToyScenes'):
        raise ValueError(
            f'--config {name} must train on toy scenes and have demo=dict(memory=..., '
            'test=...); give one that starts from configs/cotap/demo.py'
        )
    return config


def lookup(config: Any, key: str) -> Any:
    """Return the value of a dotted key.

    Raises:
        ValueError: If the config has no such key.
    """
    for part in key.split('.'):
        if part not in config:
            raise ValueError(
                f'the config has no {key}: nothing called {part!r}; it has {sorted(config)}'
            )
        config = config[part]
    return tuple(config) if isinstance(config, list) else config


def make_config(job: dict[str, Any]) -> Config:
    """The job's config: one key changed, and the smaller sizes."""
    config = Config.fromfile(job['config'])
    if job['key'] is not None:
        lookup(config, job['key'])  # a new key would change nothing, unnoticed
        config.merge_from_dict({job['key']: job['value']})
    config.train_cfg.max_iters = job['iters']
    config.train_dataloader.batch_size = job['batch_size']
    config.train_dataloader.dataset.patch.num_images = job['train_images']
    config.randomness = dict(seed=job['seed'])
    config.custom_hooks = []
    config.default_hooks.checkpoint = None
    for name in ('monitor', 'preemption'):  # MMEngine takes None for its own hooks only
        config.default_hooks.pop(name)
    config.log_level = 'ERROR'
    config.work_dir = str(Path(job['work_dir']) / NAME)
    # MMEngine keeps one runner for each name.
    config.experiment_name = f'{NAME}_{os.getpid()}_{time.monotonic_ns()}'
    return config


def train_and_measure(job: dict[str, Any]) -> dict[str, float]:
    """Run one job.

    Args:
        job (dict): ``config``, ``key`` (None: all defaults), ``value``, ``seed``, ``iters`` (0: the
            network before training), ``batch_size``, ``train_images``, ``images``, ``work_dir``.

    Returns:
        dict: ``mIoU`` of the student's filter, per cent.
    """
    config = make_config(job)
    ensure_neighbors(config, config.work_dir)
    runner = Runner.from_cfg(config)
    if job['iters']:
        runner.train()
    else:
        runner.model.init_weights()
    scenes = {
        name: build(DATASETS, dict(config.demo[name], num_images=job['images']))
        for name in ('memory', 'test')
    }
    scores = dense_retrieval(
        CoTAPEncoder(runner.model.eval(), 'student', 'filter'),
        *(
            LabeledSet(LabeledScenes(scenes[part]), len(scenes['test'].CLASSES))
            for part in ('memory', 'test')
        ),
    )
    return dict(mIoU=scores['mIoU'])


def make_jobs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seed by seed, so that what is done when a run is cut short is a smaller study."""
    config = Config.fromfile(args.config)
    changes = [(None, None)]
    for name in args.parameters:
        key, values, _ = PARAMETERS[name]
        changes += [(key, value) for value in values if value != lookup(config, key)]
    common = dict(
        config=os.path.relpath(args.config, study.ROOT),
        batch_size=args.batch_size,
        train_images=args.train_images,
        images=args.images,
    )
    jobs = []
    for seed in args.seeds:
        jobs.append(dict(common, key=None, value=None, seed=seed, iters=0))
        jobs += [
            dict(
                common,
                key=key,
                value=list(value) if isinstance(value, tuple) else value,
                seed=seed,
                iters=args.iters,
            )
            for key, value in changes
        ]
    return jobs


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All runs, the defaults of the config, and what they were made with."""
    config = read_config(args.config)
    args.config = str(Path(config.filename).resolve())
    # Work directory and absolute path of the config are not part of a result.
    places = dict(work_dir=str(args.work_dir), config=args.config)
    jobs = make_jobs(args)
    print(f'{len(jobs)} runs')
    # The neighbors are found once, before the workers would each look for them.
    first = make_config(dict(jobs[0], **places))
    ensure_neighbors(first, first.work_dir)
    records = study.run_jobs(
        train_and_measure,
        [dict(job, **places) for job in jobs],
        args.work_dir / f'{NAME}.jsonl',
        args.workers,
    )
    runs = [{**record, 'config': job['config']} for record, job in zip(records, jobs)]
    for each in runs:
        del each['work_dir']
    return dict(
        made=dict(
            study.machine(),
            workers=args.workers,
            run_minutes=round(sum(each['seconds'] for each in runs) / 60, 1),
        ),
        options=dict(
            seeds=args.seeds,
            iters=args.iters,
            batch_size=args.batch_size,
            train_images=args.train_images,
            images=args.images,
        ),
        defaults={name: lookup(config, PARAMETERS[name].key) for name in args.parameters},
        runs=runs,
    )


def as_text(value: Any) -> str:
    return ', '.join(map(str, value)) if isinstance(value, (list, tuple)) else f'{value:g}'


def curves(results: dict[str, Any]) -> dict[str, list[tuple]]:
    """Parameter -> (value, whether it is the default, summary) in the order of the values."""
    trained = [each for each in results['runs'] if each['iters']]
    found = study.summarize(trained, ('key', 'value'), 'mIoU')
    lines = {}
    for name, default in results['defaults'].items():
        key, values, _ = PARAMETERS[name]
        default = tuple(default) if isinstance(default, list) else default
        lines[name] = [
            (value, value == default, found[(None, None) if value == default else (key, value)])
            for value in values
        ]
    return lines


def against_default(results: dict[str, Any], key: str, value: Any) -> list[float]:
    """Difference to the default run of the same seed, for every seed."""
    value = list(value) if isinstance(value, tuple) else value
    score = {
        (each['key'], str(each['value']), each['seed']): each['mIoU']
        for each in results['runs']
        if each['iters']
    }
    return [
        score[key, str(value), seed] - score[None, 'None', seed]
        for seed in results['options']['seeds']
    ]


def report(results: dict[str, Any], out: Path) -> None:
    """Plot and page."""
    before = study.summarize([each for each in results['runs'] if not each['iters']], (), 'mIoU')
    lines = curves(results)
    panels, rows = [], []
    for number, (name, points) in enumerate(lines.items()):
        key, _, meaning = PARAMETERS[name]
        panels.append(
            study.Panel(
                name,
                {'': list(enumerate(found for _, _, found in points))},
                meaning,
                'mIoU, %' if number % 4 == 0 else '',
                before[()].mean,
                [as_text(value) + ('*' if default else '') for value, default, _ in points],
            )
        )
        for value, default, found in points:
            gaps = [] if default else against_default(results, key, value)
            rows.append(
                [
                    name,
                    as_text(value) + (' (default)' if default else ''),
                    study.shown(found),
                    ', '.join(f'{gap:+.1f}' for gap in gaps) or '-',
                ]
            )
    study.plot_panels(
        out / f'{NAME}.png',
        panels,
        min(4, len(panels)),
        'One parameter at a time (* default)',
        level_name='before training',
        share_y='all',
    )
    made, options = results['made'], results['options']
    versions = ', '.join(f'{key} {made[key]}' for key in ('python', 'torch', 'numpy'))
    text = (
        f'{made["date"]}, {made["machine"]}, {made["workers"]} workers; the runs took '
        f'{made["run_minutes"]} minutes in all, shared by the workers; {versions}. Seeds '
        f'{", ".join(map(str, options["seeds"]))}; {options["iters"]} iterations of '
        f'{options["batch_size"]} images out of {options["train_images"]}; measured with '
        f'{options["images"]} memory and {options["images"]} test scenes. Before training: '
        f"{study.shown(before[()])}.\n\n![mIoU of the student's filter]({NAME}.png)\n\n"
        + markdown_table(
            ['parameter', 'value', 'mIoU, %', 'against the default, seed by seed'], rows
        )
    )
    study.fill_page(out / f'{NAME}.md', 'results', text)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    study.finish(NAME, parse_args(argv), run, report)


if __name__ == '__main__':
    main()
