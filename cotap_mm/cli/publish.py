"""Publish a checkpoint: strip training state, add provenance and a hash.

    cotap publish work_dirs/vits_coco/iter_240000.pth cotap_vits_coco.pth --license MIT

Optimizer, schedules, queues and the other network are removed; config, versions and license are
stored with the weights. The file's hash becomes part of its name. Note that the config may contain
paths of your machine.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_file
from cotap_mm.command_line.shared_options import add_network, add_trust
from cotap_mm.command_line.tool import report_user_errors, slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint saved by training')
    parser.add_argument('out', type=out_file('.pth'), help='NAME.pth; written as NAME-HASH.pth')
    parser.add_argument(
        '--license', metavar='NAME', required=True, help='license of the weights, e.g. Apache-2.0'
    )
    add_network(parser, 'network of a pre-training checkpoint to publish (default: student)')
    add_trust(parser, 'the checkpoint')
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.export import publish

    with report_user_errors():
        print(publish(args.checkpoint, args.out, args.license, args.network, args.trust))
