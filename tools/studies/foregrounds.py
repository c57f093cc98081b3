"""Study: which patches the foregrounds select, with and without outlier tokens.

    python tools/studies/foregrounds.py --data toy camvid raccoon --camvid DIR --raccoon DIR
    python tools/studies/foregrounds.py --plot-only   # tables and plot from the kept JSON

Each foreground is compared with labeled objects, on the shipped toy ViT as it is and with planted
outliers, with its own CLS token and with one that is fitted to objects. Beside each stand as many
random patches, and as many from the middle of the image. Runs are kept in --work-dir and not
repeated; delete it after changing the code.
"""

from __future__ import annotations

import argparse
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Optional

import study
import torch
from labeled_patches import DATA, LabeledPatches, check_folders, read_patches
from planted_outliers import OUTLIERS, fit_cls, plant
from torch import Tensor, nn

import cotap_mm
from cotap_mm.command_line.arguments import Parser, positive_int
from cotap_mm.command_line.table import markdown_table
from cotap_mm.command_line.tool import tool
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.protocols.foreground import jaccard
from cotap_mm.models.modules import border_excess
from cotap_mm.registry import MODELS, build

NAME = 'foregrounds'
KINDS = (
    'ClsAttention',
    'ClippedAttention',
    'KeyNormAttention',
    'MedianAttention',
    'PcaForeground',
)
CLS = ('own', 'fitted')
PLANTED = tuple(name for name in OUTLIERS if name != 'none')
_BATCH = 16  # as in configs/cotap/camvid_toy.py; the median norm is that of a batch


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--data', nargs='+', choices=DATA, default=['toy'])
    parser.add_argument('--camvid', default='data/camvid', help='folder of CamVid')
    parser.add_argument(
        '--raccoon', default='data/raccoon', help='folder with images, train.json and val.json'
    )
    parser.add_argument('--checkpoint', default='cotap_mm://toy_vit.pth', help='a ViT')
    parser.add_argument('--seeds', type=study.seed, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument(
        '--images', type=positive_int, default=200, help='most images of train and of val'
    )
    study.add_folders(parser)
    return parser.parse_args(argv)


# ---- baselines and scores ------------------------------------------------------------------


def percent(share: Tensor) -> float:
    """Convert a share to percent, rounded for the JSON."""
    return round(100 * float(share), 3)


def random_patches(mask: Tensor, seed: int) -> Tensor:
    """Choose as many random patches of each image as a mask (B, N) has."""
    draws = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed))
    return draws.argsort(dim=1).argsort(dim=1) < mask.sum(dim=1, keepdim=True)


def central_patches(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Choose as many patches of each image as a mask (B, N) has, closest to the middle first."""
    rows, columns = ((torch.arange(count) + 0.5) / count - 0.5 for count in grid)
    distance = (rows[:, None] ** 2 + columns**2).flatten()  # (N,)
    place = distance.argsort(stable=True).argsort()
    return place < mask.sum(dim=1, keepdim=True)


def overlap(mask: Tensor, patches: LabeledPatches) -> Tensor:
    """Compute the IoU with the objects for each image that has any, in labeled pixels, (B,)."""
    chosen = patches.objects.sum(dim=1) > 0
    return torch.stack(
        [
            jaccard(one[None], objects[:, None], known)[0, 0]
            for one, objects, known in zip(
                mask[chosen], patches.objects[chosen], patches.known[chosen]
            )
        ]
    )


def measure_mask(
    mask: Tensor, patches: LabeledPatches, planted: Optional[Tensor], seed: int
) -> dict[str, float]:
    """Compute all values of a foreground (B, N), in percent."""
    chosen = patches.objects.sum(dim=1) > 0
    inside = (mask * patches.objects).sum(dim=1)[chosen]
    covered = (mask * patches.known).sum(dim=1)[chosen]
    values = dict(
        iou=overlap(mask, patches).mean(),
        random=overlap(random_patches(mask, seed), patches).mean(),
        center=overlap(central_patches(mask, patches.grid), patches).mean(),
        precision=(inside / covered.clamp_min(1)).mean(),
        recall=(inside / patches.objects.sum(dim=1)[chosen]).mean(),
        share=mask.double().mean(),
        border=border_excess(mask.unflatten(1, patches.grid)),
    )
    if planted is not None:
        values['planted'] = mask.gather(1, planted).double().mean()
    return {name: percent(value) for name, value in values.items()}


# ---- runs ----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def load_network(checkpoint: str) -> Encoder:
    """Load a ViT without its filter."""
    encoder = cotap_mm.load(checkpoint, output='backbone')
    if not hasattr(encoder.module, 'forward_entering'):
        raise ValueError(
            f'--checkpoint {checkpoint} must be a file or a short name, got a model of '
            f'{type(encoder).__name__}; give its file'
        )
    return encoder


@lru_cache(maxsize=2)
def cached_patches(checkpoint: str, data: str, root: str, cls: str, limit: int) -> LabeledPatches:
    """Patches of val, with the network's CLS token or one fitted on train."""
    encoder = load_network(checkpoint)
    patches = read_patches(encoder, data, root, 'val', limit)
    if cls == 'own':
        return patches
    train = read_patches(encoder, data, root, 'train', limit)
    token = fit_cls(
        encoder.module, train.entering, train.grid, train.objects / train.known.clamp_min(1)
    )
    entering = patches.entering.clone()
    entering[:, 0] = token
    return patches._replace(entering=entering)


@torch.no_grad()
def select(kind: str, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute a foreground in batches, bool (B, N)."""
    foreground = build(MODELS, dict(type=kind))
    return torch.cat(
        [foreground(backbone, batch, grid).flatten(1) for batch in entering.split(_BATCH)]
    )


def measure(args: argparse.Namespace, job: study.Job) -> dict[str, float]:
    """Measure all foregrounds once."""
    root = dict(toy='', camvid=args.camvid, raccoon=args.raccoon)[job['data']]
    patches = cached_patches(job['checkpoint'], job['data'], root, job['cls'], job['images'])
    backbone = load_network(job['checkpoint']).module
    entering, planted = patches.entering, None
    outliers = OUTLIERS[job['outliers']]
    if outliers is not None:
        entering, planted = plant(backbone, entering, patches.grid, outliers, job['seed'])
    everything = torch.ones_like(patches.objects, dtype=torch.bool)
    covered = patches.objects > 0.5 * patches.known
    found = dict(
        everything=percent(overlap(everything, patches).mean()),
        objects_border=percent(border_excess(covered.unflatten(1, patches.grid))),
    )
    if planted is not None:
        attention = backbone.cls_attention(entering, patches.grid).mean(dim=1)  # (B, N)
        stolen = attention.gather(1, planted).sum(dim=1) / attention.sum(dim=1)
        found['stolen'] = percent(stolen.mean())
    for kind in KINDS:
        mask = select(kind, backbone, entering, patches.grid)
        for name, value in measure_mask(mask, patches, planted, job['seed']).items():
            found[f'{kind} {name}'] = value
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements, with where they were made."""
    check_folders(args.data, args.camvid, args.raccoon)
    jobs = [
        dict(
            data=data,
            cls=cls,
            outliers=outliers,
            seed=seed,
            images=args.images,
            checkpoint=args.checkpoint,
        )
        for data in args.data
        for cls in CLS
        for outliers in OUTLIERS
        for seed in args.seeds
    ]
    runs = study.run_jobs(partial(measure, args), jobs, args.work_dir / f'{NAME}.jsonl')
    return dict(study.machine(), runs=runs)


# ---- report --------------------------------------------------------------------------------

Found = dict[tuple, study.Summary]


def summarize_all(runs: list[study.Record]) -> dict[str, Found]:
    """Name of a value -> (data, CLS, outliers) -> mean and spread over plantings."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {
        name: study.summarize(
            [run for run in runs if name in run], ('data', 'cls', 'outliers'), name
        )
        for name in names
        if name not in runs[0] or isinstance(runs[0][name], float)
    }


def text(summary: study.Summary) -> str:
    """Mean and spread for a table; without spread where the seed has no influence."""
    return study.shown(summary if summary.spread > 1e-6 else summary._replace(count=1))


def groups(runs: list[study.Record]) -> list[tuple[str, str]]:
    """Pairs of data and CLS, in order."""
    return list(dict.fromkeys((run['data'], run['cls']) for run in runs))


def overlap_table(runs: list[study.Record], found: dict[str, Found]) -> str:
    """IoU of each foreground with each kind of outliers, and of its baselines."""
    rows = []
    for group in groups(runs):
        clean = (*group, 'none')
        for kind in KINDS:
            values = [found[f'{kind} iou'][(*group, name)] for name in OUTLIERS]
            values += [found[f'{kind} {name}'][clean] for name in ('random', 'center')]
            rows.append([*group, kind, *map(text, values)])
        everything = text(found['everything'][clean])
        rows.append([*group, 'all patches', *[everything] * len(OUTLIERS), '', ''])
    return markdown_table(['data', 'CLS', 'foreground', *OUTLIERS, 'random', 'center'], rows)


def border_table(runs: list[study.Record], found: dict[str, Found]) -> str:
    """Share, precision, recall, border excess, and outliers that are foreground."""
    rows = []
    for group in groups(runs):
        clean = (*group, 'none')
        for kind in KINDS:
            values = [
                found[f'{kind} {name}'][clean]
                for name in ('share', 'precision', 'recall', 'border')
            ]
            values.append(found[f'{kind} border'][(*group, 'large')])
            values += [found[f'{kind} planted'][(*group, name)] for name in PLANTED]
            rows.append([*group, kind, *map(text, values)])
        border = text(found['objects_border'][clean])
        rows.append([*group, 'the objects', *[''] * 3, border, border, *[''] * len(PLANTED)])
    header = ['share', 'precision', 'recall', 'border excess', 'border excess, large']
    header += [f'kept, {name}' for name in PLANTED]
    return markdown_table(['data', 'CLS', 'foreground', *header], rows)


def make_panels(runs: list[study.Record], found: dict[str, Found]) -> list[study.Panel]:
    """IoU against the kind of outliers, one panel per pair of data and CLS."""
    series = {kind: f'{kind} iou' for kind in KINDS}
    series |= {f'{name} patches': f'ClsAttention {name}' for name in ('random', 'center')}
    return [
        study.Panel(
            f'{data}, {cls} CLS',
            {
                title: [
                    (x, found[name][data, cls, outliers]) for x, outliers in enumerate(OUTLIERS)
                ]
                for title, name in series.items()
            },
            'outliers',
            'IoU, %',
            found['everything'][data, cls, 'none'].mean,
            list(OUTLIERS),
        )
        for data, cls in groups(runs)
    ]


def report(results: dict[str, Any], out: Path) -> None:
    """Tables and a plot."""
    runs = results['runs']
    found = summarize_all(runs)
    study.plot_panels(
        out / f'{NAME}.png',
        make_panels(runs, found),
        len(CLS),
        'Foregrounds against labeled objects',
        first='ClsAttention',
        level_name='all patches',
        size=(3.7, 2.4),
    )
    stolen = markdown_table(
        ['data', 'CLS', *PLANTED],
        [
            [*group, *(text(found['stolen'][(*group, name)]) for name in PLANTED)]
            for group in groups(runs)
        ],
    )
    versions = ', '.join(f'{key} {results[key]}' for key in ('python', 'torch', 'cotap_mm'))
    minutes = sum(run['seconds'] for run in runs) / 60
    study.fill_page(
        out / f'{NAME}.md',
        'results',
        f'{results["date"]}, {results["machine"]}, {versions}; {runs[0]["checkpoint"]}, at most '
        f'{runs[0]["images"]} images; {len({run["seed"] for run in runs})} plantings; the runs '
        f'took {minutes:.0f} minutes.\n\n![IoU by outliers]({NAME}.png)\n\n'
        f'### IoU with the objects, %\n\n{overlap_table(runs, found)}\n\n'
        '### Share, precision, recall and border excess, %\n\n'
        f'{border_table(runs, found)}\n\n'
        f'### Attention of CLS that outliers take, %\n\n{stolen}',
    )


@tool
def main(argv: Optional[list[str]] = None) -> None:
    study.finish(NAME, parse_args(argv), run, report)


if __name__ == '__main__':
    main()
