"""Publish a checkpoint: strip training state, add provenance, and upload it if you like.

    cotap publish work_dirs/vits_coco/iter_240000.pth cotap_vits_coco.pth --license MIT
    cotap publish work_dirs/vits_coco/iter_240000.pth cotap_vits_coco --format hf
    cotap publish work_dirs/vits_coco/iter_240000.pth --to-hub USER/REPO --private

A file (--format pth) has one network with filter and heads, config, versions and license; its hash
becomes part of its name. Note that the config may contain paths of your machine.

A folder (--format hf or timm) has the network with its filter and a model card without such paths.
It opens with cotap_mm.load, and, without the filter, with transformers or timm. --to-hub uploads it
to the Hugging Face hub, from where cotap_mm.load('hf:USER/REPO') reads it.
"""

from __future__ import annotations

import argparse
from typing import Any, Optional

from cotap_mm.command_line.arguments import Parser, out_file, out_folder, out_path
from cotap_mm.command_line.shared_options import add_network, add_num_heads, add_trust
from cotap_mm.command_line.tool import report_user_errors, slow_imports, tool

FORMATS = ('pth', 'hf', 'timm')
_OF_FOLDERS = ('name', 'base_model', 'data_name', 'results', 'private', 'overwrite', 'num_heads')


class _FormatAction(argparse.Action):
    """Store an option with which ``out`` and ``--license`` are not always required."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        optional = {'license', 'out'} if self.dest == 'to_hub' else {'license'}
        for action in parser._actions:
            if action.dest in optional and values != 'pth':
                action.required = False


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint saved by training')
    parser.add_argument(
        'out',
        type=out_path,
        help='NAME.pth, written as NAME-HASH.pth; a folder for hf and timm, optional with --to-hub',
    )
    parser.add_argument(
        '--format',
        action=_FormatAction,
        choices=FORMATS,
        help='a file, or a folder for transformers (hf) or timm (default: pth; hf with --to-hub)',
    )
    parser.add_argument(
        '--to-hub',
        action=_FormatAction,
        metavar='USER/REPO',
        help='upload a folder to the Hugging Face hub; needs `hf auth login` or HF_TOKEN',
    )
    parser.add_argument('--private', action='store_true', help='create a private repository')
    parser.add_argument(
        '--license',
        metavar='NAME',
        required=True,
        help='license of the weights, e.g. Apache-2.0; for a folder only if that of the initial '
        'weights is unknown',
    )
    parser.add_argument(
        '--i-have-checked',
        action='store_true',
        help='publish under --license although the initial weights have another license',
    )
    parser.add_argument('--name', metavar='TITLE', help='title of the model card')
    parser.add_argument(
        '--base-model',
        metavar='NAME',
        help='initial weights, if the checkpoint does not state them: USER/REPO, timm:NAME, URL',
    )
    parser.add_argument(
        '--data-name', metavar='NAME', help='training images, e.g. "COCO train2017"'
    )
    parser.add_argument(
        '--results',
        nargs='+',
        metavar='FILE',
        help='scores for the model card: JSON files of cotap evaluate, also of other networks',
    )
    add_network(parser, 'network of a pre-training checkpoint to publish (default: student)')
    add_num_heads(parser)
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a model in the folder or the repository'
    )
    add_trust(parser, 'the checkpoint')
    return parser


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Parse a command line; by default that of this process."""
    parser = build_parser()
    args = parser.parse_args(argv)
    args.format = args.format or ('hf' if args.to_hub else 'pth')
    if args.to_hub and args.format == 'pth':
        parser.error('--to-hub needs a folder: use --format hf or --format timm')
    if args.private and not args.to_hub:
        parser.error('--private requires --to-hub')
    surplus = [name for name in _OF_FOLDERS if getattr(args, name)]
    if args.format == 'pth' and surplus:
        parser.error(f'--{surplus[0].replace("_", "-")} requires --format hf or timm, or --to-hub')
    if args.out is not None:
        check = out_file('.pth') if args.format == 'pth' else out_folder
        try:
            check(args.out)
        except argparse.ArgumentTypeError as error:
            parser.error(f'argument out: {error}')
    return args


@tool
def main(argv: Optional[list[str]] = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    with slow_imports():
        from cotap_mm.export import publish, publish_folder, push

    with report_user_errors():
        if args.format == 'pth':
            options = dict(network=args.network, trust=args.trust, checked=args.i_have_checked)
            print(publish(args.checkpoint, args.out, args.license, **options))
            return
        more = dict(
            license=args.license,
            library=args.format,
            name=args.name or '',
            base_model=args.base_model or '',
            data=args.data_name or '',
            results=args.results or (),
            network=args.network,
            trust=args.trust,
            num_heads=args.num_heads,
            overwrite=args.overwrite,
            checked=args.i_have_checked,
        )
        if args.to_hub:
            print(push(args.checkpoint, args.to_hub, private=args.private, out=args.out, **more))
        else:
            print(publish_folder(args.checkpoint, args.out, **more))
