"""Train CoTAP on toy scenes, evaluate it, and write a report with pictures.

    cotap demo                      # one seed, a few minutes on two cores
    cotap demo --seeds 0 1 2        # with the standard deviation over seeds
    cotap demo --from-scratch       # without the shipped init

The report is ``work_dirs/demo/report.html``; ``results.json`` next to it has all numbers.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_folder, positive_int, whole_number
from cotap_mm.command_line.tool import slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--config', metavar='FILE', default='configs/cotap/demo.py', help='config of the demo'
    )
    parser.add_argument(
        '--work-dir', type=out_folder, default='work_dirs/demo', help='folder of the report'
    )
    parser.add_argument(
        '--seeds',
        type=whole_number(0, 2**32 - 1),
        nargs='+',
        default=[0],
        help='random seeds, one training each',
    )
    parser.add_argument(
        '--iters', type=positive_int, help='number of training steps (default: from the config)'
    )
    parser.add_argument('--from-scratch', action='store_true', help='start from random weights')
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.demo import run
    run(args)
