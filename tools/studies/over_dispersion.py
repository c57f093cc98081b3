"""Study: over-dispersion during training, and the effect of the ranking loss and the filter.

    python tools/studies/over_dispersion.py --data toy camvid --camvid data/camvid
    python tools/studies/over_dispersion.py --plot-only   # tables and plot from the kept JSON

Four trainings from the same start (the shipped toy ViT), with the same images in the same
order: the cluster losses alone; with the ranking loss; with the object-aware filter; all of
CoTAP. While they run, the protocol ``dispersion`` splits the variance of the student's patch
features, and before and after it ``dense-retrieval`` measures what they are worth. Runs are
kept in --work-dir and not repeated; delete it after changing the code.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Optional

import study
from mmengine.config import Config
from mmengine.runner import Runner

from cotap_mm.command_line.arguments import KeyValues, Parser, positive_int
from cotap_mm.command_line.table import markdown_table
from cotap_mm.command_line.tool import tool
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.engine.launch.overrides import check_overrides
from cotap_mm.engine.launch.validation import check_config
from cotap_mm.evaluation import EvaluationHook

NAME = 'over_dispersion'
_CLUSTER = dict(patch_ranking=None, cls_neighbor=None, prototype_entropy=None)
_NO_FILTER = dict(_delete_=True, type='NoFilter')
#: Name -> keys of the config's model that differ from all of CoTAP.
VARIANTS: dict[str, dict[str, Any]] = {
    'cluster losses': dict(neck=_NO_FILTER, losses=_CLUSTER),
    '+ ranking': dict(neck=_NO_FILTER, losses=dict(cls_neighbor=None, prototype_entropy=None)),
    '+ filter': dict(losses=dict(patch_ranking=None, cls_neighbor=None)),
    'all': {},
}
OUTPUTS = ('backbone', 'filter')
#: Measure -> heading.
MEASURES = dict(
    within_instance='within instances, %',
    between_classes='between classes, %',
    silhouette='silhouette x 100',
    effective_rank='effective rank',
    variance='variance x 100',
)
_SCALE = dict(silhouette=100, variance=100)
SHOWN = ('within_instance', 'between_classes', 'silhouette', 'effective_rank')


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--data', nargs='+', choices=['toy', 'camvid'], default=['toy'])
    parser.add_argument('--camvid', default='data/camvid', help='folder of CamVid')
    parser.add_argument('--seeds', type=study.seed, nargs='+', default=[0])
    parser.add_argument('--iters', type=positive_int, default=100)
    parser.add_argument('--interval', type=positive_int, default=25)
    parser.add_argument('--images', type=positive_int, default=60, help='images that are measured')
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValues, default={}, help='config keys of all runs'
    )
    study.add_folders(parser)
    return parser.parse_args(argv)


def make_config(job: study.Job, args: argparse.Namespace) -> Config:
    """The demo's config, or CamVid's, with the parts of one variant."""
    config = Config.fromfile(
        study.ROOT / 'configs/cotap' / dict(toy='demo.py', camvid='camvid_toy.py')[job['data']]
    )
    for part, value in VARIANTS[job['variant']].items():
        value = dict(value)
        if value.pop('_delete_', False):
            config.model[part] = value
        else:
            config.model[part].update(value)
    if job['data'] == 'camvid':
        config.train_dataloader.dataset.patch.root = f'{args.camvid}/images/train'
    config.train_cfg.max_iters = job['iters']
    config.randomness = dict(seed=job['seed'])
    config.experiment_name = '_'.join(
        str(job[key]).replace(' ', '_') for key in ('data', 'variant', 'seed')
    )
    config.work_dir = str(args.work_dir / NAME / config.experiment_name)
    config.custom_hooks = []
    config.default_hooks.checkpoint = None
    for name in ('monitor', 'preemption'):  # MMEngine takes None for its own hooks only
        config.default_hooks.pop(name)
    config.log_level = 'ERROR'
    check_overrides(config, args.cfg_options)
    config.merge_from_dict(args.cfg_options)
    check_config(config)
    return config


def check_camvid(root: str) -> None:
    """Check that CamVid exists before anything is computed.

    Raises:
        FileNotFoundError: If a folder of images or labels is missing.
    """
    for name in ('images/train', 'images/val', 'labels/train', 'labels/val'):
        if not (Path(root) / name).is_dir():
            raise FileNotFoundError(
                f'--camvid {root} must be a folder with images/train, '
                'images/val, labels/train and labels/val, and has no '
                f'{name}; give another folder'
            )


def make_hooks(job: study.Job, args: argparse.Namespace) -> list[EvaluationHook]:
    """Dispersion along the way, dense retrieval at both ends."""
    size: dict[str, Any] = {}
    if job['data'] == 'toy':
        train, val = (
            dict(type='ToyScenes', num_images=job['images'], split=split)
            for split in ('memory', 'val')
        )
        classes = 9
    else:
        train, val = (
            dict(
                type='ImageMaskFolder',
                images=f'{args.camvid}/images/{split}',
                labels=f'{args.camvid}/labels/{split}',
                limit=job['images'],
            )
            for split in ('train', 'val')
        )
        classes, size = 11, dict(image_size=(184, 240))
    measure = [('student', output) for output in OUTPUTS]
    return [
        EvaluationHook(
            val,
            classes,
            protocol='dispersion',
            interval=job['interval'],
            measure=measure,
            options=dict(size, layers=False),
        ),
        EvaluationHook(
            val,
            classes,
            train,
            interval=job['iters'],
            measure=measure,
            options=dict(size, memory_size=10_000),
        ),
    ]


def train(args: argparse.Namespace, job: study.Job) -> dict[str, Any]:
    """Train once; for each output and measure a list of (iterations, value)."""
    config = make_config(job, args)
    ensure_neighbors(config, args.work_dir / NAME)  # the same for all runs on these images
    runner = Runner.from_cfg(config)
    hooks = make_hooks(job, args)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    found: dict[str, Any] = {}
    for output in OUTPUTS:
        for measure in MEASURES:
            found[f'{output} {measure}'] = [
                (step, _SCALE.get(measure, 1) * result.scores[measure])
                for step, (_, kind), result in hooks[0].history
                if kind == output
            ]
        found[f'{output} mIoU'] = [
            (step, result.value) for step, (_, kind), result in hooks[1].history if kind == output
        ]
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All trainings, with where they were made."""
    jobs = [
        dict(
            data=data,
            variant=variant,
            seed=seed,
            iters=args.iters,
            interval=args.interval,
            images=args.images,
            options=dict(args.cfg_options),
        )
        for data in args.data
        for seed in args.seeds
        for variant in VARIANTS
    ]
    if 'camvid' in args.data:
        check_camvid(args.camvid)
    for job in jobs:
        make_config(job, args)
    runs = study.run_jobs(partial(train, args), jobs, args.work_dir / f'{NAME}.jsonl')
    return dict(study.machine(), runs=runs)


def curves(runs: list[study.Record], data: str, output: str, measure: str) -> dict[str, list]:
    """Variant -> (iterations, summary over seeds)."""
    found: dict[str, list] = {}
    for variant in VARIANTS:
        chosen = [
            each[f'{output} {measure}']
            for each in runs
            if (each['data'], each['variant']) == (data, variant)
        ]
        points = [dict(step=step, value=value) for each in chosen for step, value in each]
        summary = study.summarize(points, ['step'], 'value')
        if summary:
            found[variant] = [(step, each) for (step,), each in summary.items()]
    return found


def report(results: dict[str, Any], out: Path) -> None:
    """Plot of the networks' outputs along training, and a table of where they ended."""
    runs = results['runs']
    names = list(dict.fromkeys(each['data'] for each in runs))
    panels = [
        study.Panel(
            f'{data}: {MEASURES[measure]}', curves(runs, data, 'filter', measure), 'iterations'
        )
        for data in names
        for measure in SHOWN
    ]
    study.plot_panels(
        out / f'{NAME}.png',
        panels,
        len(SHOWN),
        "Patch features at the network's output while training",
        first='all',
    )
    rows = []
    for data in names:
        for output in OUTPUTS:
            columns = {
                measure: curves(runs, data, output, measure) for measure in ('mIoU', *MEASURES)
            }
            for variant in columns['mIoU']:
                ends = [study.shown(columns['mIoU'][variant][place][1]) for place in (0, -1)]
                rows.append(
                    [
                        data,
                        output,
                        variant,
                        *ends,
                        *(study.shown(columns[measure][variant][-1][1]) for measure in MEASURES),
                    ]
                )
    header = ['data', 'features', 'training', 'mIoU before', 'mIoU after', *MEASURES.values()]
    study.fill_page(out / f'{NAME}.md', 'results', markdown_table(header, rows))


@tool
def main(argv: Optional[list[str]] = None) -> None:
    study.finish(NAME, parse_args(argv), run, report)


if __name__ == '__main__':
    main()
