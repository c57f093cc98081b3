"""Report versions, GPUs, operators, memory and disks, what is broken, and how to repair it.

    cotap doctor
    cotap doctor --markdown         # to paste into an issue

The libraries are imported in a process of their own, so that the report also appears if one of them
is missing or damaged. Home folders and secrets are left out. The exit status is 1 if something is
broken, and 0 if there are only warnings.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, positive_float
from cotap_mm.command_line.tool import slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument(
        '--markdown',
        dest='format',
        action='store_const',
        const='markdown',
        default='text',
        help='print Markdown, for an issue',
    )
    formats.add_argument(
        '--json', dest='format', action='store_const', const='json', help='print JSON'
    )
    parser.add_argument(
        '--no-imports',
        action='store_true',
        help='do not import the libraries: takes a second, and finds less',
    )
    parser.add_argument(
        '--timeout',
        type=positive_float,
        default=300.0,
        metavar='SECONDS',
        help='limit for importing all libraries',
    )
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        default='work_dirs',
        help='folder of your runs, whose disk is checked',
    )
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.doctor import run
    run(args)
