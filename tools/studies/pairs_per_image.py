"""Study: effect of ranking more patch pairs per image.

    python tools/studies/pairs_per_image.py --camvid data/camvid
    python tools/studies/pairs_per_image.py --plot-only   # table and plot from the kept JSON

The same training on CamVid (``configs/cotap/camvid_toy.py``, shortened) with 1, 5, 20 patches
an image and with all of them (``pairs.topk``; 5 in the paper). Measured is dense retrieval before
and after, and how long a step takes. Runs are kept in --work-dir and not repeated; delete it after
changing the code.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Optional

import over_dispersion
import study
from mmengine.runner import Runner

from cotap_mm.command_line.arguments import KeyValues, Parser, positive_int, whole_number
from cotap_mm.command_line.table import markdown_table
from cotap_mm.command_line.tool import tool
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.models import PatchPairSampler

NAME = 'pairs_per_image'
ALL = 0  # stands for all patches, in the JSON too


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--camvid', default='data/camvid', help='folder of CamVid')
    parser.add_argument(
        '--topk',
        type=whole_number(0),
        nargs='+',
        default=[1, 5, 20, ALL],
        help='patches per image; 0 means all',
    )
    parser.add_argument('--seeds', type=study.seed, nargs='+', default=[0, 1])
    parser.add_argument('--iters', type=positive_int, default=100)
    parser.add_argument('--images', type=positive_int, default=60, help='images that are measured')
    parser.add_argument(
        '--workers',
        type=positive_int,
        default=2,
        help='processes of one thread; several slow the steps that are timed',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValues, default={}, help='config keys of all runs'
    )
    study.add_folders(parser)
    return parser.parse_args(argv)


def count_pairs(sampler: PatchPairSampler, num_global: int, num_images: int) -> int:
    """Pairs an image that a step ranks, over all pool sizes."""
    others = min(sampler.num_negatives, num_images - 1)
    tokens = [num_global * size**2 for size in sampler.pool_sizes]
    kept = [count if sampler.topk is None else min(count, sampler.topk) for count in tokens]
    return sum(count**2 * (1 + others) for count in kept)


def train(args: argparse.Namespace, job: study.Job) -> dict[str, Any]:
    """Train once; dense retrieval before and after, pairs an image, and seconds a step."""
    config = over_dispersion.make_config(dict(job, data='camvid', variant='all'), args)
    config.model.pairs.topk = job['topk'] or None
    work_dir = args.work_dir / NAME
    config.work_dir = str(work_dir / f'topk_{job["topk"]}_seed_{job["seed"]}')
    config.experiment_name = Path(config.work_dir).name
    ensure_neighbors(config, work_dir)  # the same for all runs
    runner = Runner.from_cfg(config)
    # Only dense retrieval, at both ends.
    hook = over_dispersion.make_hooks(dict(job, data='camvid', interval=job['iters']), args)[1]
    runner.register_hook(hook)
    runner.train()
    found = {
        f'{kind} mIoU': [result.value for _, (_, each), result in hook.history if each == kind]
        for kind in over_dispersion.OUTPUTS
    }
    return dict(
        found,
        pairs=count_pairs(runner.model.pairs, 2, config.train_dataloader.batch_size),
        step_seconds=runner.message_hub.get_scalar('train/time').mean(),
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All trainings, with where they were made."""
    jobs = [
        dict(
            topk=topk,
            seed=seed,
            iters=args.iters,
            images=args.images,
            options=dict(args.cfg_options),
        )
        for seed in args.seeds
        for topk in args.topk
    ]
    over_dispersion.check_camvid(args.camvid)
    # The neighbors are found once, before workers would each look for them.
    first = over_dispersion.make_config(dict(jobs[0], data='camvid', variant='all'), args)
    ensure_neighbors(first, args.work_dir / NAME)
    runs = study.run_jobs(partial(train, args), jobs, args.work_dir / f'{NAME}.jsonl', args.workers)
    return dict(study.machine(), runs=runs)


def report(results: dict[str, Any], out: Path) -> None:
    """A table and a plot over the number of pairs."""
    points = [
        dict(run, output=output, before=run[f'{output} mIoU'][0], after=run[f'{output} mIoU'][-1])
        for run in results['runs']
        for output in over_dispersion.OUTPUTS
    ]
    keys = ['output', 'topk', 'pairs']
    before, after, seconds = (
        study.summarize(points, keys, value) for value in ('before', 'after', 'step_seconds')
    )
    rows = [
        [
            output,
            str(topk or 'all'),
            f'{pairs:,}',
            study.shown(before[key]),
            study.shown(after[key]),
            study.shown(seconds[key]),
        ]
        for key in after
        for output, topk, pairs in [key]
    ]
    minutes = sum(run['seconds'] for run in results['runs']) / 60
    where = ', '.join(f'{key} {results[key]}' for key in ('python', 'torch'))
    study.fill_page(
        out / f'{NAME}.md',
        'results',
        (
            f'{results["date"]}, {results["machine"]}; the runs took {minutes:.0f} minutes in all; '
            f'{where}; {len({run["seed"] for run in results["runs"]})} seeds.\n\n'
            f'![mIoU and seconds a step]({NAME}.png)\n\n'
        )
        + markdown_table(
            [
                'features',
                'patches an image',
                'pairs an image',
                'mIoU before',
                'mIoU after',
                'seconds a step',
            ],
            rows,
        ),
    )
    ticks = [f'{topk or "all"}' for topk in dict.fromkeys(key[1] for key in after)]
    panels = [
        study.Panel(
            title,
            {
                output: [
                    (place, summary)
                    for place, summary in enumerate(
                        value for key, value in values.items() if key[0] == output
                    )
                ]
                for output in outputs
            },
            'patches an image',
            ticks=ticks,
        )
        for title, values, outputs in (
            ('mIoU after', after, over_dispersion.OUTPUTS),
            ('seconds a step', seconds, ('filter',)),
        )
    ]
    study.plot_panels(
        out / f'{NAME}.png', panels, 2, 'More pairs per image, on CamVid', size=(3.6, 2.6)
    )


@tool
def main(argv: Optional[list[str]] = None) -> None:
    study.finish(NAME, parse_args(argv), run, report)


if __name__ == '__main__':
    main()
