"""Pack a folder of images into one file, or into tar shards for very many images and object stores.

    cotap pack --images data/imagenet/train --out data/imagenet_train.lmdb
    cotap pack --images data/imagenet/train --out data/imagenet_shards --shard-size 256MB
    cotap train configs/cotap/vits_folder.py --images data/imagenet_train.lmdb

Files are copied unchanged. Training on the packed file or the shards draws the same samples as
training on the folder; neighbor files fit all of them. To resume an interrupted run, start it
again. Shards are tar files of the WebDataset format, which can be copied to an object store.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_path, positive_int, size_in_bytes
from cotap_mm.command_line.shared_options import add_ann_file, add_images
from cotap_mm.command_line.tool import slow_imports, tool
from cotap_mm.files.overwrite import add_overwrite


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    add_images(parser, 'folder of images (read recursively), text list, COCO json')
    parser.add_argument(
        '--out',
        type=out_path,
        required=True,
        metavar='PATH',
        help='file *.lmdb, which replaces an existing packed file, or folder of shards to write '
        '(required)',
    )
    parser.add_argument(
        '--format',
        choices=('lmdb', 'tar'),
        help='one LMDB file, or tar shards (default: tar if --out has no suffix, else lmdb)',
    )
    parser.add_argument(
        '--shard-size',
        type=size_in_bytes,
        metavar='SIZE',
        help='largest size of a shard, such as 256MB or 1GB (default: 256MB)',
    )
    add_overwrite(parser)
    add_ann_file(parser)
    parser.add_argument(
        '--threads',
        type=positive_int,
        default=8,
        help='number of files that are read, or of shards that are written, in parallel',
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
        from cotap_mm.commands.pack import run

    run(args)
