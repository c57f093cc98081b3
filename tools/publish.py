"""Make a file for others from what training has saved.

    python tools/publish.py work_dirs/vits_coco/iter_240000.pth cotap_vits_coco.pth --license MIT

Optimiser, schedules, queues and the other branch go; config, versions and licence stay beside the
weights. The file's hash becomes part of its name. The config may name folders of your machine.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_file
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.export import publish


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='what training has saved')
    parser.add_argument('out', type=out_file('.pth'), help='NAME.pth; written as NAME-HASH.pth')
    parser.add_argument('--license', required=True, help='of the weights, e.g. Apache-2.0')
    parser.add_argument(
        '--branch',
        choices=['student', 'teacher'],
        help='of a pre-training checkpoint; the student by default',
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle the checkpoint fully: it can run code; known files only',
    )
    return parser.parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with report_user_errors():
        print(publish(args.checkpoint, args.out, args.license, args.branch, args.trust))


if __name__ == '__main__':
    main()
