"""Compute the nearest neighbors of each image with a frozen ViT, for drawing positives in training.

    cotap neighbors --images data/coco/train2017 --out data/coco/neighbors.npy
    cotap neighbors --images DIR --backbone deit-small --checkpoint dino.pth --out nn.npy

    torchrun --nproc_per_node 8 -m cotap_mm neighbors --images data/imagenet/train --out nn.npy

The work is sharded across processes. To resume an interrupted run, start it again, with any number
of processes.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, add_device, out_file, positive_int, whole_number
from cotap_mm.command_line.choices import FEATURE_DTYPES, SEARCHES
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_images,
    add_trust,
    add_value_range,
)
from cotap_mm.command_line.tool import slow_imports, tool
from cotap_mm.files.overwrite import add_overwrite


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    add_images(
        parser,
        'folder of images (read recursively), text list, COCO json, *.lmdb, tar shards or their '
        'URI',
    )
    parser.add_argument(
        '--out',
        type=out_file('.npy', '.npz'),
        required=True,
        help='neighbor file to write (*.npy); replaces an existing neighbor file',
    )
    add_overwrite(parser)
    add_ann_file(parser)
    add_value_range(parser)
    parser.add_argument(
        '--backbone',
        metavar='NAME',
        default='configs/cotap/vitb_coco.py',
        help='config whose backbone and initial weights are used (default: '
        '%(default)s, DINO ViT-B/16), or an arch of MMPretrain: deit-small is '
        'ViT-S, deit-base is ViT-B',
    )
    parser.add_argument(
        '--patch-size',
        type=positive_int,
        default=16,
        help='patch size in pixels, only if --backbone is an arch',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='CHECKPOINT',
        help="other weights of any supported format (file or URL); 'none' for random weights "
        '(default: those of the config)',
    )
    parser.add_argument(
        '--num-neighbors', type=positive_int, default=7, help='number of neighbors of each image'
    )
    parser.add_argument(
        '--image-size',
        type=positive_int,
        default=224,
        metavar='PIXELS',
        help='side of the center crops, a multiple of the patch size (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size', type=positive_int, default=32, help='number of images encoded at a time'
    )
    parser.add_argument(
        '--workers', type=whole_number(0), default=2, help='number of processes that read images'
    )
    add_device(parser)
    parser.add_argument(
        '--search',
        choices=SEARCHES,
        default='exact',
        help='exact, or approximate by an inverted file of faiss (ivf), for more than about a '
        'million images',
    )
    parser.add_argument(
        '--nprobe',
        type=positive_int,
        default=32,
        help='cells of the inverted file to search for each image, only for --search ivf: more '
        'take longer and miss fewer neighbors',
    )
    parser.add_argument(
        '--feature-dtype',
        choices=FEATURE_DTYPES,
        default='auto',
        help='type of the features on disk; auto: float32 up to a million images, then float16',
    )
    parser.add_argument(
        '--faiss',
        action='store_true',
        help='search exactly, on the CPU, with faiss, '
        'which an exact search on a CPU uses anyway if it is installed',
    )
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
        from cotap_mm.commands.neighbors import run
    run(args)
