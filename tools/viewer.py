"""Explore features in the browser: click a patch to see the similar patches in all images.

    pip install gradio
    python tools/viewer.py work_dirs/vits_coco/iter_240000.pth DIR
    python tools/viewer.py after=FILE DIR --compare before=timm:vit_small_patch16_224.dino

A checkpoint is anything that cotap_mm.load accepts; NAME=CHECKPOINT sets its name. By default the
page is served on this machine only; see --host. Anyone who can reach it can see the images. It
accepts no uploads, serves no files, and skips images whose symbolic links leave the folder
(--follow-links includes them).
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

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


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', metavar='[NAME=]CHECKPOINT')
    parser.add_argument('images', help='folder (read recursively), text list, COCO json or *.lmdb')
    parser.add_argument(
        '--compare',
        nargs='+',
        default=[],
        metavar='[NAME=]CHECKPOINT',
        help='more checkpoints, one row each',
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
    return parser.parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with slow_imports():
        from commands.viewer import run
    run(args)


if __name__ == '__main__':
    main()
