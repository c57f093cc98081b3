"""Compute features of all images of a folder, and write them to one file.

    cotap embed runs/a/iter_2000.pth --images DIR --out features.npz
    cotap embed dino_vits16 --images DIR --out features.parquet --features cls mean
    torchrun --nproc_per_node 8 -m cotap_mm embed CHECKPOINT --images DIR --out features.zarr

Features: cls (one per image), mean (mean of the patches of an image), patches (all of them). The
file also has the names of the images, and the hash of the weights, the settings and versions. Read
it with cotap_mm.read_features, NumPy (*.npz), any reader of Parquet, or zarr.

A run that was interrupted or killed continues when the same command is started again. Images that
cannot be read are skipped and listed in the file.
"""

from __future__ import annotations

import argparse
from typing import Optional, Union

from cotap_mm.command_line.arguments import (
    Parser,
    add_device,
    out_path,
    positive_int,
    whole_number,
)
from cotap_mm.command_line.choices import DTYPES, FEATURE_FILES, FEATURES
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_network,
    add_num_heads,
    add_output,
    add_trust,
    add_value_range,
)
from cotap_mm.command_line.tool import slow_imports, tool

ORIGINAL = 'original'


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='anything that cotap_mm.load accepts')
    parser.add_argument(
        '--images',
        required=True,
        metavar='PATH',
        help='folder (read recursively), text list, COCO json, *.lmdb, tar shards or their URI',
    )
    parser.add_argument(
        '--out',
        type=feature_file,
        required=True,
        metavar='FILE',
        help=f'file to write: {", ".join(f"*{suffix}" for suffix in FEATURE_FILES)}',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an existing file with other content'
    )
    add_ann_file(parser, '--images')
    add_value_range(parser)
    parser.add_argument(
        '--features',
        nargs='+',
        choices=FEATURES,
        default=['cls'],
        metavar='FEATURE',
        help=f'{", ".join(FEATURES)} (default: cls)',
    )
    parser.add_argument(
        '--size',
        type=size_or_original,
        nargs='+',
        default=[224],
        metavar='PIXELS',
        help='side of a square, or height and width, to which all images are resized (default: '
        f"224); '{ORIGINAL}' keeps the size of each image",
    )
    parser.add_argument(
        '--dtype',
        choices=DTYPES,
        default='float32',
        help='type of the numbers in the file (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        default=32,
        metavar='N',
        help='images per forward pass (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=whole_number(0),
        default=2,
        metavar='N',
        help='processes that read images (default: %(default)s)',
    )
    add_network(parser)
    add_output(parser)
    add_num_heads(parser)
    add_trust(parser, 'the checkpoint')
    add_device(parser)
    return parser


def feature_file(text: str) -> str:
    """Argparse type: a feature file that can be written."""
    if not text.endswith(FEATURE_FILES):
        raise argparse.ArgumentTypeError(f'must end in {", ".join(FEATURE_FILES)}, got {text!r}')
    return out_path(text)


def size_or_original(text: str) -> Union[int, str]:
    """Argparse type: a number of pixels, or the word for no resizing."""
    return text if text == ORIGINAL else positive_int(text)


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if len(args.size) > 2 or (ORIGINAL in args.size and len(args.size) > 1):
        parser.error(f"--size takes one or two numbers, or '{ORIGINAL}'")
    args.size = None if ORIGINAL in args.size else args.size
    return args


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.embed import run
    run(args)
