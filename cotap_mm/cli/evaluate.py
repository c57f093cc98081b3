r"""Evaluate backbones with dense protocols, and compare them.

    cotap evaluate work_dirs/vits_coco/iter_240000.pth --protocol dense-retrieval \
        --data voc --root data/VOCdevkit/VOC2012 --image-size 448
    cotap evaluate CHECKPOINT --protocol dense-retrieval linear-seg dispersion --data toy
    cotap evaluate ours=CHECKPOINT --compare dino=timm:vit_small_patch16_224.dino \
        random=random:CHECKPOINT --protocol dense-retrieval --data camvid
    torchrun --nproc_per_node 8 -m cotap_mm evaluate ...          # on 8 GPUs

A backbone is a file (CoTAP, DINO, iBOT, timm, Hugging Face, ...), timm:NAME, or one of these after
random: (random weights). NAME=BACKBONE gives it a name, and BACKBONE@backbone evaluates it without
the object-aware filter. Each result is printed and written to a JSON file; existing results for
the same weights and settings are reused.
"""

from __future__ import annotations

import argparse
from typing import Any, Optional

from cotap_mm.command_line.arguments import (
    KeyValues,
    Parser,
    add_device,
    out_folder,
    positive_int,
)
from cotap_mm.command_line.choices import PROTOCOLS
from cotap_mm.command_line.shared_options import (
    add_network,
    add_num_heads,
    add_trust,
    add_value_range,
    add_weights_seed,
)
from cotap_mm.command_line.tool import slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__, epilog='protocols: ' + ', '.join(PROTOCOLS))
    parser.add_argument(
        'backbones', nargs='+', metavar='BACKBONE', help='checkpoint or name to evaluate, see above'
    )
    parser.add_argument(
        '--compare',
        nargs='+',
        default=[],
        metavar='BACKBONE',
        help='more backbones, for one table and one plot',
    )
    parser.add_argument(
        '--protocol',
        nargs='+',
        required=True,
        metavar='PROTOCOL',
        help='one or more of those below',
    )
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='folder with images/ and labels/, short for --data folder --root DIR (default: the '
        'images of --data)',
    )
    add_data_options(parser, required=False)
    parser.add_argument(
        '--set',
        nargs='+',
        action=KeyValues,
        default={},
        metavar='KEY=VALUE',
        help='settings of the protocols; each protocol uses the settings that it has (default: '
        'those of the protocols)',
    )
    add_num_heads(parser)
    add_network(parser)
    add_trust(parser)
    add_weights_seed(parser)
    add_device(parser)
    parser.add_argument(
        '--out', type=out_folder, default='work_dirs/evaluation', help='folder of the results'
    )
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.images is not None:
        if args.data not in (None, 'folder') or args.root is not None:
            parser.error('--images is short for --data folder --root DIR; give one of the two')
        args.data, args.root = 'folder', args.images
    elif args.data is None:
        parser.error('the following arguments are required: --data or --images')
    return args


class OneOrTwo(argparse.Action):
    """Store one or two values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Store the values, or exit with status 2."""
        if len(values) > 2:
            parser.error(f'{self.option_strings[0]} takes one or two numbers')
        setattr(namespace, self.dest, values)


def add_data_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options that choose the images; ``--data`` may have a substitute."""
    substitute = '' if required else ' (default: none; --data or --images is required)'
    parser.add_argument(
        '--data',
        metavar='NAME',
        required=required,
        help='name of a data set, or a config of MMSegmentation; an unknown name lists all names'
        + substitute,
    )
    parser.add_argument(
        '--root', metavar='DIR', help='folder of the data (default: that of the data set)'
    )
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='class names of --data folder (default: none)'
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        help='use at most this many images of train and of val (default: all)',
    )
    add_value_range(parser)
    parser.add_argument(
        '--image-size',
        type=positive_int,
        action=OneOrTwo,
        nargs='+',
        metavar='PIXELS',
        help='side of a square, or height and width; sizes are rounded to the '
        'nearest multiples of the patch size (default: that of the protocol)',
    )


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.commands.evaluate import run
    run(args)
