"""Study: what protects a good backbone from a training that is too strong.

    python tools/studies/do_no_harm.py --data toy camvid --camvid data/camvid
    python tools/studies/do_no_harm.py --plot-only   # table and plot from the kept JSON

The shipped toy ViT is trained with the usual learning rate, with ten times that rate, and then with
each of the options that are to protect it. Measured is dense retrieval of the student before,
during and after. Runs are kept in --work-dir and not repeated; delete it after changing the code.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Optional

import over_dispersion
import study
from mmengine.runner import Runner

from cotap_mm.command_line.arguments import KeyValues, Parser, positive_int
from cotap_mm.command_line.table import markdown_table
from cotap_mm.command_line.tool import tool
from cotap_mm.engine.adaptation import LORA, TRAINABLE, limit_training
from cotap_mm.engine.auto_neighbors import ensure_neighbors

NAME = 'do_no_harm'
_WEIGHTS = 'optim_wrapper.paramwise_cfg'
_GRAM = {'model.losses.gram': dict(type='GramLoss')}
#: Name -> keys of the config; all but the first with ten times the learning rate.
VARIANTS: dict[str, dict[str, Any]] = {
    'usual rate': {},
    'rate x 10': {},
    'head warm-up': {f'{_WEIGHTS}.freeze_backbone_iters': 'half'},
    'layer decay 0.5': {f'{_WEIGHTS}.layer_decay_rate': 0.5},
    'last block': {TRAINABLE: 1},
    'LoRA 8': {LORA: 8},
    'anchor x 10': {**_GRAM, 'model.loss_weights': dict(gram=10.0)},
    'anchor x 100': {**_GRAM, 'model.loss_weights': dict(gram=100.0)},
}
FACTOR = 10
DRAWN = 7  # lines that can be told apart


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--data', nargs='+', choices=['toy', 'camvid'], default=['toy'])
    parser.add_argument('--camvid', default='data/camvid', help='folder of CamVid')
    parser.add_argument(
        '--variants', nargs='+', choices=list(VARIANTS), default=list(VARIANTS), metavar='NAME'
    )
    parser.add_argument('--seeds', type=study.seed, nargs='+', default=[0, 1])
    parser.add_argument('--iters', type=positive_int, default=60)
    parser.add_argument('--images', type=positive_int, default=40, help='images that are measured')
    parser.add_argument('--workers', type=positive_int, default=1, help='processes of one thread')
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValues, default={}, help='config keys of all runs'
    )
    study.add_folders(parser)
    return parser.parse_args(argv)


def make_config(job: study.Job, args: argparse.Namespace) -> Any:
    """The demo's config, or CamVid's, with the options of one variant."""
    config = over_dispersion.make_config(dict(job, variant='all'), args)
    if job['variant'] != next(iter(VARIANTS)):
        config.optim_wrapper.optimizer.lr *= FACTOR
        config.param_scheduler[-1].eta_min *= FACTOR
    options = {
        key: job['iters'] // 2 if value == 'half' else value
        for key, value in VARIANTS[job['variant']].items()
    }
    config.merge_from_dict(options)
    limit_training(config)
    name = '_'.join(str(job[key]) for key in ('data', 'variant', 'seed'))
    config.experiment_name = name.replace(' ', '_').replace(',', '')
    config.work_dir = str(args.work_dir / NAME / config.experiment_name)
    return config


def train(args: argparse.Namespace, job: study.Job) -> dict[str, Any]:
    """Train once; dense retrieval of the student and of the teacher at each measurement."""
    config = make_config(job, args)
    ensure_neighbors(config, args.work_dir / NAME)  # the same for all runs on these images
    runner = Runner.from_cfg(config)
    hook = over_dispersion.make_hooks(dict(job, interval=max(job['iters'] // 4, 1)), args)[1]
    hook.interval = max(job['iters'] // 4, 1)
    runner.register_hook(hook)
    runner.train()
    return {
        output: [(step, found.value) for step, (_, each), found in hook.history if each == output]
        for output in over_dispersion.OUTPUTS
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All trainings, with where they were made."""
    jobs = [
        dict(
            data=data,
            variant=variant,
            seed=seed,
            iters=args.iters,
            images=args.images,
            options=dict(args.cfg_options),
        )
        for data in args.data
        for seed in args.seeds
        for variant in args.variants
    ]
    if 'camvid' in args.data:
        over_dispersion.check_camvid(args.camvid)
    for data in args.data:  # the neighbors are found once, before workers would each look for them
        first = next(job for job in jobs if job['data'] == data)
        ensure_neighbors(make_config(first, args), args.work_dir / NAME)
    runs = study.run_jobs(partial(train, args), jobs, args.work_dir / f'{NAME}.jsonl', args.workers)
    return dict(study.machine(), runs=runs)


def report(results: dict[str, Any], out: Path) -> None:
    """A table of the scores before and after, and a plot of the way."""
    runs = results['runs']
    rows, panels = [], []
    for data in dict.fromkeys(each['data'] for each in runs):
        for output in over_dispersion.OUTPUTS:
            points = [
                dict(variant=each['variant'], step=step, value=value)
                for each in runs
                if each['data'] == data
                for step, value in each[output]
            ]
            found = study.summarize(points, ['variant', 'step'], 'value')
            way = {
                name: [(step, found[each, step]) for each, step in found if each == name]
                for name in dict.fromkeys(each['variant'] for each in points)
            }
            chosen = dict(list(way.items())[:DRAWN])
            panels.append(study.Panel(f'{data}: {output}', chosen, 'iterations', 'mIoU'))
            for name, steps in way.items():
                first, last = steps[0][1], steps[-1][1]
                best = max((each for _, each in steps), key=lambda each: each.mean)
                rows.append(
                    [
                        data,
                        output,
                        name,
                        study.shown(first),
                        study.shown(last),
                        f'{last.mean - first.mean:+.1f}',
                        study.shown(best),
                    ]
                )
    header = ['data', 'features', 'training', 'mIoU before', 'after', 'change', 'best measured']
    minutes = sum(each['seconds'] for each in runs) / 60
    where = ', '.join(f'{key} {results[key]}' for key in ('python', 'torch'))
    seeds = len({each['seed'] for each in runs})
    study.fill_page(
        out / f'{NAME}.md',
        'results',
        f'{results["date"]}, {results["machine"]}; the runs took {minutes:.0f} minutes in all; '
        f'{where}; {runs[0]["iters"]} iterations, {seeds} seeds.\n\n'
        f'![mIoU over the training]({NAME}.png)\n\n' + markdown_table(header, rows),
    )
    study.plot_panels(
        out / f'{NAME}.png',
        panels,
        len(over_dispersion.OUTPUTS),
        'Ten times the learning rate, with and without protection',
        first='usual rate',
        size=(3.6, 2.6),
    )


@tool
def main(argv: Optional[list[str]] = None) -> None:
    study.finish(NAME, parse_args(argv), run, report)


if __name__ == '__main__':
    main()
