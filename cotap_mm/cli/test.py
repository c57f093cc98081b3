"""Test a trained model of MMSegmentation, MMDetection or MMPretrain.

    cotap test configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth
    cotap test CONFIG CHECKPOINT --tta --show-dir pictures --out predictions
    tools/dist_test.sh configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth 8

The options are those of ``mim test``. With --out, MMSegmentation writes one PNG of class indices
per image to a folder; the other libraries write a pickle file. --show-dir saves a picture of every
image with its prediction.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser
from cotap_mm.command_line.shared_options import add_run_options
from cotap_mm.command_line.tool import slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file, e.g. configs/downstream/ade20k_upernet.py')
    parser.add_argument('checkpoint', help='checkpoint of a training with this config')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: tta_model and tta_pipeline of the config, or flips if it '
        'has none',
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save predictions: a folder (MMSegmentation) or a .pkl file (MMDetection, MMPretrain)',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='save pictures of the predictions (default: none)'
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for --show')
    add_run_options(parser)
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.test import build_config
        from cotap_mm.engine.launch.commands import test_command

    test_command(args, lambda: build_config(args), args.out)
