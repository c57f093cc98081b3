"""Look at your images and this machine, propose a training, and print its command.

    cotap check --images DIR
    cotap check --images DIR --measure          # trains a few steps, for times that are measured
    cotap check --images DIR --config vitb_coco --hours 24

Of a large folder, a sample of images is decoded, the same one in every run. Reported are too few,
nearly identical, small, damaged, deep and gray images. The exit status is 1 if a training would
refuse the images.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.cli.train import parse_args as parse_train
from cotap_mm.command_line.arguments import Parser, positive_float, positive_int, whole_number
from cotap_mm.command_line.shared_options import add_ann_file, add_value_range
from cotap_mm.command_line.tool import slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--images',
        metavar='PATH',
        required=True,
        help='folder of images (read recursively), text list, COCO json, packed file (*.lmdb), '
        'tar shards or URI of these',
    )
    add_ann_file(parser, '--images')
    add_value_range(parser)
    parser.add_argument(
        '--config',
        metavar='CONFIG',
        help='plan for this config (default: vits_folder, or raccoon_toy without a GPU)',
    )
    parser.add_argument(
        '--gpus',
        type=whole_number(0),
        metavar='N',
        help='number of GPUs to plan for, 0 for the CPU (default: all of this machine)',
    )
    parser.add_argument(
        '--hours',
        type=positive_float,
        help='shorten the training to this duration (default: unlimited)',
    )
    parser.add_argument(
        '--sample', type=positive_int, default=400, metavar='N', help='decode at most N images'
    )
    parser.add_argument(
        '--measure',
        action='store_true',
        help='train a few steps on one device, with random weights, and write nothing',
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.check import run
    run(args, parse_train)
