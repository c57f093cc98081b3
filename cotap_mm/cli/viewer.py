"""Explore features in the browser: click a patch to see the similar patches in all images.

    pip install gradio
    cotap viewer work_dirs/vits_coco/iter_240000.pth --images DIR
    cotap viewer before=timm:vit_small_patch16_224.dino after=FILE --images DIR

A checkpoint is anything that cotap_mm.load accepts; NAME=CHECKPOINT sets its name. Networks are
shown side by side, and can be hidden: similarity to the chosen patch, principal components,
clusters, prototypes, attention, foreground, norms. Keys: arrows move the patch, [ and ] change its
image, 1 to 8 choose what is shown. The address of the page is a link to what it shows; figures can
be saved as PNG or SVG, with the cotap visualize command that draws them.

By default the page is served on this machine only; see --host. Anyone who can reach it can see the
images. It accepts no uploads, serves no files, and skips images whose symbolic links leave the
folder (--follow-links includes them).
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, add_device, positive_int, whole_number
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_image_size,
    add_num_heads,
    add_output,
    add_value_range,
)
from cotap_mm.command_line.tool import slow_imports, tool
from cotap_mm.command_line.web_address import host_name, root_path
from cotap_mm.deprecation import warn_renamed


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        'checkpoints', nargs='+', metavar='[NAME=]CHECKPOINT', help='one row of pictures each'
    )
    parser.add_argument(
        '--images',
        metavar='PATH',
        help='folder (read recursively), text list, COCO json or *.lmdb (required)',
    )
    parser.add_argument(
        '--compare',
        nargs='+',
        default=[],
        metavar='[NAME=]CHECKPOINT',
        help='more checkpoints',
    )
    add_output(parser)
    add_image_size(parser)
    add_ann_file(parser)
    add_value_range(parser)
    parser.add_argument(
        '--shown',
        type=positive_int,
        default=4,
        help='number of images that are shown first (default: %(default)s)',
    )
    parser.add_argument(
        '--follow-links',
        action='store_true',
        help='also show images outside of the folder that links or the list refer to',
    )
    add_num_heads(parser)
    add_device(parser)
    parser.add_argument(
        '--host',
        metavar='NAME',
        default='127.0.0.1',
        help='address or name to listen on (default: %(default)s, this machine only)',
    )
    parser.add_argument(
        '--port',
        type=whole_number(0, 65535),
        default=7860,
        metavar='N',
        help='TCP port; 0 chooses a free one (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-host',
        action='append',
        default=[],
        type=host_name,
        metavar='NAME[:PORT]',
        help='host name under which a reverse proxy serves the page; can be repeated. Requests '
        'with other names than these and those of this machine are then rejected',
    )
    parser.add_argument(
        '--root-path',
        type=root_path,
        metavar='/PATH|URL',
        help='path under which a reverse proxy serves the page, or its full URL '
        'if the proxy does not send X-Forwarded-Proto and X-Forwarded-Host',
    )
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.images is None:
        if len(args.checkpoints) < 2:
            parser.error('the following arguments are required: --images')
        args.images = args.checkpoints.pop()
        warn_renamed(f'{args.images} without an option', f'--images {args.images}')
    return args


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.viewer import run
    run(args)
