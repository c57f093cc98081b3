"""Compare backbones on the same data: one table, one plot, and pictures side by side in a report.

    cotap compare dino_vits16 runs/a/iter_2000.pth --data toy
    cotap compare before=dino_vits16 after=FILE --data voc --root data/VOCdevkit/VOC2012 --full
    cotap compare A B C --data camvid --images my_photos --out work_dirs/comparison

A backbone is as in cotap evaluate: a file, a name, timm:NAME, random: before one of these;
NAME=BACKBONE gives it a name, BACKBONE@backbone is without the object-aware filter. By default the
protocol is dense-retrieval for segmentation data, knn for classification data, and video for
videos; --full adds linear-seg or linear. Results that exist in --out are reused.
"""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.cli.evaluate import add_data_options
from cotap_mm.command_line.arguments import (
    KeyValues,
    Parser,
    add_device,
    out_folder,
    positive_int,
)
from cotap_mm.command_line.choices import PICTURES, PROTOCOLS
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_image_size,
    add_network,
    add_num_heads,
    add_trust,
    add_weights_seed,
)
from cotap_mm.command_line.tool import slow_imports, tool
from cotap_mm.files.overwrite import add_overwrite

#: Pictures by default.
KINDS = ('compare', 'pca', 'similarity')


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('backbones', nargs='+', metavar='[NAME=]BACKBONE', help='at least two')
    add_data_options(parser)
    parser.add_argument(
        '--protocol',
        nargs='+',
        metavar='PROTOCOL',
        help=f'{", ".join(PROTOCOLS)} (default: by the kind of data)',
    )
    parser.add_argument(
        '--full', action='store_true', help='also train linear layers, which takes longer'
    )
    parser.add_argument(
        '--set',
        nargs='+',
        action=KeyValues,
        default={},
        metavar='KEY=VALUE',
        help='settings of the protocols',
    )
    parser.add_argument(
        '--images',
        metavar='PATH',
        help='images of the pictures (default: the validation images of --data)',
    )
    add_ann_file(parser, '--images')
    parser.add_argument(
        '--kinds',
        nargs='+',
        choices=PICTURES,
        default=list(KINDS),
        metavar='KIND',
        help=f'pictures, as in cotap visualize (default: {" ".join(KINDS)})',
    )
    parser.add_argument(
        '--shown',
        type=positive_int,
        default=6,
        metavar='N',
        help='number of images in the pictures, evenly spaced (default: %(default)s)',
    )
    add_image_size(parser, '; of the pictures')
    add_num_heads(parser)
    add_network(parser)
    add_trust(parser)
    add_weights_seed(parser)
    add_device(parser)
    parser.add_argument(
        '--out',
        type=out_folder,
        metavar='DIR',
        default='work_dirs/comparison',
        help='folder of report.html, the PNG files and the results (default: %(default)s)',
    )
    add_overwrite(parser)
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    return build_parser().parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.compare import run
    run(args)
