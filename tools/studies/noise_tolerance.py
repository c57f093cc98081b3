"""Study: robustness of the CoTAP loss to label noise and class imbalance.

    python tools/studies/noise_tolerance.py               # everything, on two cores
    python tools/studies/noise_tolerance.py --quick --out work_dirs/quick    # a look, in seconds
    python tools/studies/noise_tolerance.py --plot-only   # tables and plot from the kept JSON

A small student learns an embedding from noisy similarity targets, by CoTAP and by six other
objectives with equal steps, batches, initial weights and targets. For each objective and each kind
and level of noise, a seed of its own chooses margin or temperature, then the learning rate, on its
validation split; then the other seeds are run. Measured is retrieval on clean, balanced test
samples. Runs are kept in --work-dir and not repeated; delete it after changing the code.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any, Optional

import study
from noise_tables import (
    CONDITIONS,
    LEVELS,
    NOISE_LABEL,
    OURS,
    by_level,
    count_choices,
    place,
    standings,
    tables,
    untouched,
    verdicts,
)
from noisy_targets import DATA, NUM_CLASSES, make_task
from small_student import SETTINGS, raw_precision, train_and_measure

from cotap_mm.command_line.arguments import (
    Parser,
    device,
    positive_float,
    positive_int,
    whole_number,
)
from cotap_mm.command_line.table import markdown_table
from cotap_mm.command_line.tool import tool
from cotap_mm.errors import UserError

NAME = 'noise_tolerance'
TUNING_SEED = 1000
Record = study.Record
Cell = dict[str, Any]  # a condition with an objective


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--seeds', type=study.seed, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--data', nargs='+', choices=DATA, default=list(DATA))
    parser.add_argument('--imbalance', type=positive_float, nargs='+', default=[1.0, 50.0])
    parser.add_argument('--objectives', nargs='+', choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        '--lrs',
        type=positive_float,
        nargs='+',
        default=[1e-2, 3e-2],
        help='the first serves while margin or temperature is chosen',
    )
    parser.add_argument('--steps', type=positive_int, default=200)
    parser.add_argument('--batch', type=whole_number(2), default=24)
    parser.add_argument(
        '--train-size', type=whole_number(0), default=0, help='0: 1000 (mixture), 260 (digits)'
    )
    parser.add_argument(
        '--held-out',
        type=whole_number(2 * NUM_CLASSES),
        default=500,
        help='samples of the validation, and of the test of the mixture',
    )
    parser.add_argument('--device', type=device, default='cpu')
    parser.add_argument('--workers', type=positive_int, default=2, help='processes of one thread')
    parser.add_argument('--quick', action='store_true', help='toy sizes; proves nothing')
    study.add_folders(parser)
    args = parser.parse_args(argv)
    if TUNING_SEED in args.seeds:
        parser.error(f'seed {TUNING_SEED} is for tuning; choose others')
    if OURS not in args.objectives:
        parser.error(
            f'--objectives must contain {OURS}, which the others are compared with, got '
            f'{" ".join(args.objectives)}'
        )
    if args.quick:
        args.seeds, args.data, args.imbalance, args.lrs = [0, 1], ['mixture'], [50.0], [3e-3]
        args.steps, args.batch, args.train_size, args.held_out, args.workers = 4, 12, 120, 60, 1
    return args


def conditions(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All settings of data and noise; without noise both kinds are one."""
    found = []
    for data, imbalance in itertools.product(args.data, args.imbalance):
        for noise, levels in LEVELS.items():
            found += [
                dict(data=data, imbalance=imbalance, noise=noise, level=level)
                for level in (levels[::3] if args.quick else levels)
                if level or noise == 'flip'
            ]
    return found


def learned_from(cell: Cell) -> Cell:
    """Where noise does not reach an objective, its clean runs serve."""
    if untouched(cell['noise'], cell['objective']):
        return dict(cell, noise='flip', level=0.0)
    return cell


def tune(args: argparse.Namespace, cells: list[Cell], store: Path) -> list[Record]:
    """Choose for each cell, by validation: first margin or temperature, then the learning rate.

    Returns:
        list[dict]: All trials, each with ``chosen``: whether its cell continues with it.
    """

    def trial(cell: Cell, setting: Any, lr: float) -> Record:
        return dict(cell, setting=setting, lr=lr, seed=TUNING_SEED, split='val', **fixed(args))

    values = {name: found[:1] if args.quick else found for name, found in SETTINGS.items()}
    first = study.run_jobs(
        train_and_measure,
        [
            trial(cell, setting, args.lrs[0])
            for cell in cells
            for setting in values[cell['objective']]
        ],
        store,
        args.workers,
    )
    found = [best(first, cell) for cell in cells]
    second = study.run_jobs(
        train_and_measure,
        [
            trial(cell, start['setting'], lr)
            for cell, start in zip(cells, found)
            for lr in args.lrs[1:]
        ],
        store,
        args.workers,
    )
    trials = first + second
    kept = [id(best(trials, cell)) for cell in cells]
    return [dict(each, chosen=id(each) in kept) for each in trials]


def best(trials: list[Record], cell: Cell) -> Record:
    """The trial of a cell with the highest validation precision, the first of equals."""
    return max(
        (each for each in trials if all(each[key] == cell[key] for key in cell)),
        key=lambda each: each['precision'],
    )


def fixed(args: argparse.Namespace) -> dict[str, Any]:
    return dict(
        steps=args.steps,
        batch=args.batch,
        train_size=args.train_size,
        held_out=args.held_out,
        device=args.device,
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Tune, then run the seeds.

    Returns:
        dict: ``runs`` (of the seeds), ``trials`` (of tuning), ``raw`` (precision of untrained
        features), and what they were made with.
    """
    for data, imbalance in itertools.product(args.data, args.imbalance):
        for seed in (TUNING_SEED, *args.seeds):  # sizes that do not work are refused now
            make_task(data, imbalance, seed, args.train_size, args.held_out)
    store = args.work_dir / f'{NAME}{"_quick" if args.quick else ""}.jsonl'
    wanted = [
        dict(condition, objective=name)
        for condition in conditions(args)
        for name in args.objectives
    ]
    cells = list({tuple(cell.values()): cell for cell in map(learned_from, wanted)}.values())
    print(f'tuning {len(cells)} cells')
    trials = tune(args, cells, store)
    picks = {
        tuple(each[key] for key in (*CONDITIONS, 'objective')): each
        for each in trials
        if each['chosen']
    }
    jobs = []
    for cell in map(learned_from, wanted):
        pick = picks[tuple(cell.values())]
        jobs += [
            dict(
                cell, setting=pick['setting'], lr=pick['lr'], seed=seed, split='test', **fixed(args)
            )
            for seed in args.seeds
        ]
    print(f'measuring {len(args.seeds)} seeds')
    runs = study.run_jobs(train_and_measure, jobs, store, args.workers)
    places = [{key: cell[key] for key in CONDITIONS} for cell in wanted for _ in args.seeds]
    raw = [
        dict(
            data=data,
            imbalance=imbalance,
            seed=seed,
            precision=raw_precision(
                data, imbalance, seed, train_size=args.train_size, held_out=args.held_out
            ),
        )
        for data, imbalance, seed in itertools.product(args.data, args.imbalance, args.seeds)
    ]
    return dict(
        made=dict(
            study.machine(args.device),
            workers=args.workers,
            run_minutes=round(run_seconds(trials + runs) / 60, 1),
        ),
        options=dict(fixed(args), seeds=args.seeds, lrs=args.lrs, quick=args.quick),
        raw=raw,
        trials=[compact(each, args) for each in trials],
        runs=[compact({**each, **where}, args) for each, where in zip(runs, places)],
    )


def compact(record: Record, args: argparse.Namespace) -> Record:
    """Without what all runs share, and rounded: the file lies in the repository."""
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in record.items()
        if key not in fixed(args)
    }


def run_seconds(records: list[dict[str, Any]]) -> float:
    """Seconds of all runs, those from an earlier start included, each counted once."""
    once = {tuple(map(str, record.values())): record['seconds'] for record in records}
    return sum(once.values())


def report(results: dict[str, Any], out: Path) -> None:
    """Plot and page."""
    found = by_level(results)
    raw = study.summarize(results['raw'], ('data', 'imbalance'), 'precision')
    panels = []
    for noise in LEVELS:
        for data, imbalance in raw:
            lines: dict[str, list] = {}
            for key in sorted(
                (k for k in found if k[:3] == (data, imbalance, noise)), key=lambda k: k[3]
            ):
                lines.setdefault(key[4], []).append((key[3], found[key]))
            order = [name for name in SETTINGS if name in lines]
            panels.append(
                study.Panel(
                    place(data, imbalance),
                    {name: lines[name] for name in order},
                    NOISE_LABEL[noise],
                    'mean Average Precision, %' if len(panels) % len(raw) == 0 else '',
                    raw[data, imbalance].mean,
                )
            )
    study.plot_panels(
        out / f'{NAME}.png',
        panels,
        len(raw),
        'Clean retrieval after learning from noisy targets',
        OURS,
        'features, untrained',
        size=(2.9, 2.5),
    )
    made, options = results['made'], results['options']
    versions = ', '.join(f'{key} {made[key]}' for key in ('python', 'torch', 'numpy', 'sklearn'))
    intro = (
        f'{made["date"]}, {made["machine"]}, {made["workers"]} workers; the runs took '
        f'{made["run_minutes"]} minutes in all, shared by the workers; {versions}. Seeds '
        f'{", ".join(map(str, options["seeds"]))}; {options["steps"]} steps of '
        f'{options["batch"]} samples.'
    )
    picks = markdown_table(
        ['objective', 'setting and learning rate (times chosen)'],
        [
            [
                name,
                ', '.join(
                    f'{setting} and {lr:g} ({count})'
                    for (setting, lr), count in sorted(counts.items(), key=lambda item: -item[1])
                ),
            ]
            for name, counts in count_choices(results['trials']).items()
        ],
    )
    text = (
        f'{intro}\n\n![retrieval against noise]({NAME}.png)\n\n'
        '### Over all noisy settings\n\nMean place (1 is the best), mean distance to the best '
        f'objective of a setting in points of mAP, and the largest.\n\n{standings(results)}\n\n'
        '### Ahead or behind\n\nMean difference in points of mAP and, in brackets, in how many '
        'settings CoTAP is ahead with every seed / behind with every seed / of how many. '
        f'(A setting is a data set with a level of noise.)\n\n{verdicts(results)}\n\n'
        '### Mean Average Precision, %\n\nMean and standard deviation over seeds; bold: the '
        f'best mean.\n\n{tables(results, "precision")}\n\n'
        '### The same for queries of the three classes rarest in training\n\n'
        f'{tables(results, "rare", above=1.0)}\n\n### What tuning chose\n\n{picks}'
    )
    study.fill_page(out / f'{NAME}.md', 'results', text)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    if args.quick and args.out == study.DOCS:
        raise UserError('--quick is a trial run; give --out another folder')
    study.finish(NAME, args, run, report)


if __name__ == '__main__':
    main()
