"""Draw pictures of the patch features of networks on your images, in one HTML report.

    cotap visualize work_dirs/vits_coco/iter_240000.pth --images DIR --out work_dirs/look
    cotap visualize before=timm:vit_small_patch16_224.dino after=FILE --images DIR --out D
    cotap visualize FILE --images DIR --labels DIR --classes sky road car --out DIR

A checkpoint is anything that cotap_mm.load accepts: a file or URL of CoTAP, DINO, iBOT, timm, ...;
timm:NAME; random:FILE or random:timm:NAME for random weights. NAME=CHECKPOINT sets its title.

Kinds: overview (similarity, components and retrieval of chosen patches in one picture, for a README
or slide), compare (at least two checkpoints side by side), pca (principal components of the
features as colors, with one basis for all checkpoints of equal width), similarity (of one patch to
all others), clusters (k-means of patches), attention (of the CLS token, with the foreground mask),
assignments (the prototype of each patch), prototypes (patches and maps of each), norms (of patch
tokens, with outliers), classes (patches projected to a plane, colored by class; needs --labels),
crops (what pre-training sees). The default is all kinds that are possible.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Optional

from cotap_mm.command_line.arguments import Parser, add_device, out_folder, positive_int
from cotap_mm.command_line.choices import PICTURES, PROJECTIONS
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_image_size,
    add_network,
    add_num_heads,
    add_output,
    add_trust,
    add_value_range,
)
from cotap_mm.command_line.tool import slow_imports, tool
from cotap_mm.files.overwrite import add_overwrite


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        'checkpoints', nargs='+', metavar='[NAME=]CHECKPOINT', help='one row of pictures each'
    )
    parser.add_argument(
        '--images',
        metavar='PATH',
        required=True,
        help='folder (read recursively), text list or COCO json',
    )
    add_ann_file(parser, '--images')
    add_value_range(parser)
    parser.add_argument(
        '--out',
        type=out_folder,
        required=True,
        help='folder for report.html and the PNG files; an earlier report is replaced',
    )
    parser.add_argument(
        '--svg', action='store_true', help='also save figures as SVG, whose text can be edited'
    )
    add_overwrite(parser)
    parser.add_argument(
        '--kinds',
        nargs='+',
        choices=PICTURES,
        metavar='KIND',
        help=f'{", ".join(PICTURES)} (default: all that are possible)',
    )
    parser.add_argument(
        '--labels',
        metavar='DIR',
        help='folder of masks with the same names as the images: class indices, 255 is ignored',
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='names of class 0, 1, ...')
    add_image_size(parser, '; networks round it to whole patches')
    parser.add_argument(
        '--limit',
        type=int,
        default=6,
        help='number of images to show, evenly spaced (default: %(default)s)',
    )
    parser.add_argument('--select', nargs='+', metavar='IMAGE', help='names of the images to show')
    parser.add_argument(
        '--pool',
        type=positive_int,
        default=60,
        help='number of images to search for prototypes, classes and similar patches '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--patch',
        type=int,
        nargs=3,
        action='append',
        metavar=('IMAGE', 'ROW', 'COL'),
        help='patch for similarity: index of the image in the report, row and column on the grid '
        'of the first checkpoint, all from 0 (default: an object, by the labels or the '
        'foreground mask); repeat it for more rows in the overview',
    )
    parser.add_argument(
        '--clusters',
        type=positive_int,
        default=12,
        help='number of clusters (default: %(default)s)',
    )
    parser.add_argument(
        '--projection',
        choices=PROJECTIONS,
        default='lda',
        help='axes for classes: linear discriminants (default) or principal components',
    )
    parser.add_argument(
        '--scale',
        type=float,
        default=1.0,
        help='factor by which images are enlarged before encoding',
    )
    parser.add_argument(
        '--window',
        type=positive_int,
        help='encode in overlapping windows of this many pixels and average them '
        '(pca, similarity, clusters, compare, classes)',
    )
    parser.add_argument(
        '--config',
        metavar='FILE',
        help="pre-training config whose crops are shown (default: the paper's crops)",
    )
    add_output(parser)
    add_network(parser)
    add_num_heads(parser)
    add_trust(parser)
    add_device(parser)
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    words = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(words)
    args.command = shlex.join(['cotap', 'visualize', *words])
    return args


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.visualize import run
    run(args)
