"""Pack a folder of images into one file, for file systems that are slow with millions of files.

    cotap pack --images data/imagenet/train --out data/imagenet_train.lmdb
    cotap train configs/cotap/vits_folder.py --images data/imagenet_train.lmdb

Files are copied unchanged. Training on the packed file draws the same samples as training on the
folder; neighbor files fit both. To resume an interrupted run, start it again.
"""

from __future__ import annotations

import argparse
import os
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_file, positive_int
from cotap_mm.command_line.shared_options import add_ann_file, add_images
from cotap_mm.command_line.tool import report_user_errors, slow_imports, tool
from cotap_mm.files.overwrite import add_overwrite, check_replaceable


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    add_images(parser, 'folder of images (read recursively), text list, COCO json')
    parser.add_argument(
        '--out',
        type=out_file(),
        required=True,
        help='file to write, *.lmdb; replaces an existing packed file',
    )
    add_overwrite(parser)
    add_ann_file(parser)
    parser.add_argument(
        '--threads', type=positive_int, default=8, help='number of files read in parallel'
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
        from cotap_mm.datasets import ImageList, pack_images
        from cotap_mm.datasets.sources.packed import is_packed_file

    with report_user_errors():
        check_replaceable(args.out, is_packed_file, 'a file of packed images', args.overwrite)
        source = ImageList(args.images, args.ann_file)
        failed = pack_images(source, args.out, args.threads)
    size = os.path.getsize(args.out) / 2**30
    print(f'\n{len(source)} images -> {args.out}, {size:.2f} GB')
    if failed:
        print(
            f'{len(failed)} of them could not be read and will count as bad images:\n  '
            + '\n  '.join(failed[:20])
        )
