"""A downstream config from several starts, with several seeds."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.table import markdown_table
from cotap_mm.errors import UserError

TRAIN = Path(__file__).resolve().parents[1] / 'train.py'


def last_metric(folder: Path, name: str) -> float:
    """The last value of a metric that a run has logged, in per cent."""
    lines = [
        json.loads(line)
        for file in sorted(folder.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    values = [line[name] for line in lines if name in line]
    if not values:
        known = sorted({key for line in lines for key in line})
        raise UserError(
            f'{folder} has logged no {name}, only {", ".join(known)}; choose another --metric'
        )
    # MMDetection logs shares, MMSegmentation per cent.
    return 100 * values[-1] if name.startswith('coco/') else values[-1]


def check(args: argparse.Namespace) -> None:
    """Refuse what no training can be started with, before the first one."""
    load_config(args.config)
    for name, *options in args.variant:
        wrong = [option for option in options if not option.partition('=')[2]]
        if wrong:
            raise ValueError(
                f'--variant {name}: expected KEY=VALUE after the name, got {wrong[0]!r}'
            )


def run(args: argparse.Namespace) -> None:
    check(args)
    top = Path(args.work_dir or Path('work_dirs') / 'transfer' / Path(args.config).stem)
    rows = []
    for name, *options in args.variant:
        values = []
        for seed in args.seeds:
            folder = top / f'{name}_{seed}'
            folder.mkdir(parents=True, exist_ok=True)
            done = folder / 'result.json'
            if not done.is_file():
                inits = [
                    option[len('init=') :].replace('{seed}', str(seed))
                    for option in options
                    if option.startswith('init=')
                ]
                keys = [option for option in options if not option.startswith('init=')]
                command = [
                    sys.executable,
                    '-W',
                    'ignore',
                    str(TRAIN),
                    args.config,
                    '--seed',
                    str(seed),
                    '--work-dir',
                    str(folder),
                    '--overwrite',
                ]  # of a run that did not come to its end
                command += ['--init', inits[-1]] if inits else []
                command += ['--cfg-options', *keys] if keys else []
                file = top.parent / f'{top.name}.log'
                with open(file, 'a', encoding='utf-8') as log:
                    done_well = subprocess.run(command, stdout=log, stderr=log).returncode == 0
                if not done_well:
                    raise UserError(
                        f'{name}, seed {seed}: the training failed; {file} ends with the reason'
                    )
                done.write_text(json.dumps({args.metric: last_metric(folder, args.metric)}))
            values.append(json.loads(done.read_text())[args.metric])
            print(f'{name}, seed {seed}: {args.metric} {values[-1]:.2f}', flush=True)
        spread = f'{statistics.stdev(values):.2f}' if len(values) > 1 else '-'
        shown = [f'{value:.2f}' for value in (*values, statistics.mean(values))]
        rows.append([name, *shown, spread])
    seeds = [f'seed {seed}' for seed in args.seeds]
    print(markdown_table(['start', *seeds, f'mean {args.metric}', 'std'], rows))
