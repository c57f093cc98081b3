"""Train CoTAP on toy scenes, evaluate it, and write a report with pictures.

    python tools/demo.py                      # one seed, a few minutes on two cores
    python tools/demo.py --seeds 0 1 2        # with the standard deviation over seeds
    python tools/demo.py --from-scratch       # without the shipped init

The report is ``work_dirs/demo/report.html``; ``results.json`` next to it has all numbers.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

import argparse
from pathlib import Path
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_folder, positive_int, whole_number
from cotap_mm.command_line.tool import slow_imports, tool

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('--config', default=str(ROOT / 'configs/cotap/demo.py'))
    parser.add_argument('--work-dir', type=out_folder, default='work_dirs/demo')
    parser.add_argument('--seeds', type=whole_number(0, 2**32 - 1), nargs='+', default=[0])
    parser.add_argument('--iters', type=positive_int, help='default: the number in the config')
    parser.add_argument('--from-scratch', action='store_true', help='start from random weights')
    return parser.parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with slow_imports():
        from commands.demo import run
    run(args)


if __name__ == '__main__':
    main()
