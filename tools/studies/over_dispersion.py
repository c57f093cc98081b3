"""Over-dispersion along training: what the ranking loss and the filter do to it.

    python tools/studies/over_dispersion.py --data toy camvid --camvid data/camvid
    python tools/studies/over_dispersion.py --plot-only        # again from the JSON

Four trainings from the same start (the shipped toy ViT), with the same images in the same
order: the cluster losses alone; with the ranking loss; with the object-aware filter; all of
CoTAP. While they run, the protocol ``dispersion`` splits the variance of the student's patch
features, and before and after it ``dense-retrieval`` measures what they are worth. Results:
``docs/studies/over_dispersion.{json,png}`` and a table on the terminal.
"""
from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cotap_mm.datasets import ensure_neighbors
from cotap_mm.evaluation import EvaluationHook
from cotap_mm.visualization.canvas import FAINT, SERIES, new_figure, render, save_png, styled

ROOT = Path(__file__).resolve().parents[2]
_CLUSTER = dict(patch_ranking=None, cls_neighbor=None, prototype_entropy=None)
_NO_FILTER = dict(_delete_=True, type='NoFilter')
#: Name -> keys of the config's model that differ from all of CoTAP.
VARIANTS: Dict[str, Dict[str, Any]] = {
    'cluster losses': dict(neck=_NO_FILTER, losses=_CLUSTER),
    '+ ranking': dict(neck=_NO_FILTER, losses=dict(cls_neighbor=None, prototype_entropy=None)),
    '+ filter': dict(losses=dict(patch_ranking=None, cls_neighbor=None)),
    'all': {},
}
OUTPUTS = ('backbone', 'filter')
MEASURES = ('within_instance', 'between_classes', 'variance', 'silhouette', 'effective_rank')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', nargs='+', choices=['toy', 'camvid'], default=['toy'])
    parser.add_argument('--camvid', default='data/camvid', help='folder of CamVid')
    parser.add_argument('--iters', type=int, default=100)
    parser.add_argument('--interval', type=int, default=25)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--images', type=int, default=60, help='images that are measured')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='config keys of all runs')
    parser.add_argument('--out', default=str(ROOT / 'docs/studies'))
    parser.add_argument('--work-dir', default='work_dirs/over_dispersion')
    parser.add_argument('--plot-only', action='store_true')
    return parser.parse_args(argv)


def make_config(data: str, variant: str, seed: int, args: argparse.Namespace) -> Config:
    """The demo's config, or CamVid's, with the parts of one variant."""
    config = Config.fromfile(ROOT / 'configs/cotap' / dict(
        toy='demo.py', camvid='camvid_small.py')[data])
    for part, value in VARIANTS[variant].items():
        value = dict(value)
        if value.pop('_delete_', False):
            config.model[part] = value
        else:
            config.model[part].update(value)
    if data == 'camvid':
        config.train_dataloader.dataset.patch.root = f'{args.camvid}/images/train'
    config.train_cfg.max_iters = args.iters
    config.randomness = dict(seed=seed)
    config.work_dir = str(Path(args.work_dir) / f'{data}_{variant.replace(" ", "_")}_{seed}')
    config.experiment_name = Path(config.work_dir).name
    config.custom_hooks = [hook for hook in config.custom_hooks if hook.type in (
        'TeacherHook', 'ScheduleLengthHook')]
    config.default_hooks.checkpoint = None
    config.log_level = 'WARNING'
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    return config


def make_hooks(data: str, args: argparse.Namespace) -> List[EvaluationHook]:
    """Dispersion along the way, dense retrieval at both ends."""
    if data == 'toy':
        labelled = dict(type='ToyScenes', num_images=args.images)
        train, val = (dict(labelled, split=split) for split in ('memory', 'val'))
        options, classes = dict(purity=0.75), 9
    else:
        train, val = (dict(type='ImageMaskFolder', images=f'{args.camvid}/images/{split}',
                           labels=f'{args.camvid}/labels/{split}', limit=args.images)
                      for split in ('train', 'val'))
        options, classes = dict(purity=0.75, image_size=(184, 240)), 11
    size = {key: options[key] for key in ('image_size', ) if key in options}
    measure = [('student', output) for output in OUTPUTS]
    return [
        EvaluationHook(val, classes, protocol='dispersion', interval=args.interval,
                       measure=measure, options=dict(options, layers=False)),
        EvaluationHook(val, classes, train, interval=args.iters, measure=measure,
                       options=dict(size, memory_size=10_000)),
    ]


class _Progress(Hook):
    """One line now and then."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if (runner.iter + 1) % 25 == 0:
            print(f'  {runner.iter + 1} of {runner.max_iters} iterations', flush=True)


def run(data: str, variant: str, seed: int, args: argparse.Namespace) -> Dict[str, Any]:
    """Train once; for each output a list of measurements."""
    config = make_config(data, variant, seed, args)
    ensure_neighbors(config, args.work_dir)  # the same for all runs on these images
    runner = Runner.from_cfg(config)
    hooks = make_hooks(data, args)
    for hook in [*hooks, _Progress()]:
        runner.register_hook(hook)
    start = time.monotonic()
    runner.train()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    assert model.teacher.num_updates > 0
    found: Dict[str, Any] = dict(data=data, variant=variant, seed=seed, iters=args.iters,
                                 minutes=round((time.monotonic() - start) / 60, 1))
    for output in OUTPUTS:
        found[output] = [
            dict(step=step, **{name: result.scores[name] for name in MEASURES})
            for step, (_, kind), result in hooks[0].history if kind == output]
        found[f'{output}_mIoU'] = [[step, result.value] for step, (_, kind), result in
                                   hooks[1].history if kind == output]
    return found


@styled
def figure(runs: List[Dict[str, Any]]) -> Any:
    """Share within instances and silhouette against iterations; a row for each data set."""
    data = list(dict.fromkeys(run['data'] for run in runs))
    panels = (('within_instance', 'within instances, % of variance'), ('silhouette', 'silhouette'),
              ('effective_rank', 'effective rank'))
    drawing = new_figure(3.1 * len(panels), 2.7 * len(data) + 0.4)
    axes = drawing.subplots(len(data), len(panels), squeeze=False)
    for row, name in enumerate(data):
        for axis, (measure, label) in zip(axes[row], panels):
            for colour, variant in zip(SERIES, VARIANTS):
                chosen = [run for run in runs if (run['data'], run['variant']) == (name, variant)]
                _draw(axis, chosen, measure, variant, colour)
            axis.set_title(f'{name}: {label}')
            axis.set_xlabel('iterations')
            axis.grid(color='#e4e7eb', linewidth=0.6)
            for side in ('top', 'right'):
                axis.spines[side].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc='outside lower center', ncol=len(VARIANTS),
                   frameon=False, labelcolor=FAINT)
    return render(drawing)


def _draw(axis: Any, runs: List[Dict[str, Any]], measure: str, variant: str,
          colour: str) -> None:
    """Mean of the seeds at the network's output, and their range as a band."""
    if not runs:
        return
    steps = [each['step'] for each in runs[0]['filter']]
    values = [[run['filter'][i][measure] for run in runs] for i in range(len(steps))]
    axis.plot(steps, [statistics.mean(each) for each in values], color=colour, label=variant,
              marker='o', markersize=3)
    axis.fill_between(steps, [min(each) for each in values], [max(each) for each in values],
                      color=colour, alpha=0.15, linewidth=0)


def table(runs: List[Dict[str, Any]]) -> str:
    """Markdown: where each variant ended, means over seeds."""
    columns = ['data', 'training', 'features', 'mIoU before', 'mIoU after', 'within instances %',
               'between classes %', 'variance', 'silhouette', 'effective rank']
    lines = ['| ' + ' | '.join(columns) + ' |', '|---' * len(columns) + '|']
    for data in dict.fromkeys(run['data'] for run in runs):
        for variant in VARIANTS:
            chosen = [run for run in runs if (run['data'], run['variant']) == (data, variant)]
            for output in OUTPUTS if chosen else ():
                last = [run[output][-1] for run in chosen]
                ends = [statistics.mean(run[f'{output}_mIoU'][place][1] for run in chosen)
                        for place in (0, -1)]
                means = {name: statistics.mean(each[name] for each in last) for name in MEASURES}
                cells = [data, variant, output, *(f'{value:.1f}' for value in ends),
                         f'{means["within_instance"]:.1f}', f'{means["between_classes"]:.1f}',
                         f'{means["variance"]:.3f}', f'{means["silhouette"]:.3f}',
                         f'{means["effective_rank"]:.1f}']
                lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    out = Path(args.out)
    file = out / 'over_dispersion.json'
    if args.plot_only:
        runs = json.loads(file.read_text())
    else:
        runs = []
        for data in args.data:
            for seed in args.seeds:
                for variant in VARIANTS:
                    print(f'{data}, {variant}, seed {seed}', flush=True)
                    runs.append(run(data, variant, seed, args))
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(runs, indent=1))
    save_png(figure(runs), out / 'over_dispersion.png')
    print(table(runs))


if __name__ == '__main__':
    main()
