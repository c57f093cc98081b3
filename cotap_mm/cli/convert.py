"""Convert weights of any supported source for another library.

Training and downstream configs need no conversion: PretrainedViT reads the original files.

    cotap convert work_dirs/vits_coco/iter_240000.pth cotap.safetensors --to safetensors
    cotap convert work_dirs/vits_coco/iter_240000.pth cotap.onnx --to onnx --size 448 448
    cotap convert dino_vits16 dino_vits16_hf --to hf

A folder for hf opens with transformers.AutoModel.from_pretrained(FOLDER), a folder for timm with
timm.create_model('local-dir:FOLDER', pretrained=True).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_path, positive_int
from cotap_mm.command_line.choices import SOURCES, TARGETS
from cotap_mm.command_line.shared_options import add_network, add_num_heads, add_trust
from cotap_mm.command_line.tool import report_user_errors, slow_imports, tool


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='file, URL, folder or hf:USER/REPO to read')
    parser.add_argument(
        'out',
        type=out_path,
        help='file to write: *.pth or *.safetensors, *.onnx, *.pt; a folder for hf or timm',
    )
    parser.add_argument(
        '--to',
        default='cotap',
        choices=TARGETS,
        help='the ViT without the filter for mmpretrain, mmseg, timm or hf; with the filter as '
        'safetensors, onnx or torchscript; everything by our names (cotap, the default)',
    )
    parser.add_argument(
        '--source',
        default='auto',
        choices=['auto', *sorted(SOURCES)],
        help='expected origin of the file (default: detect it)',
    )
    add_network(
        parser,
        'network of a file that has both (default: the student of CoTAP, the teacher of DINO, '
        'iBOT and Mugs)',
    )
    parser.add_argument(
        '--size',
        type=positive_int,
        nargs=2,
        default=(224, 224),
        metavar=('H', 'W'),
        help='image size for onnx and torchscript (default: 224 224)',
    )
    add_num_heads(parser)
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
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
        from cotap_mm.export import convert

    with report_user_errors():
        if Path(args.out).resolve() == Path(args.checkpoint).resolve():
            raise ValueError(f'{args.out} is the checkpoint itself; give another output path')
        report = convert(
            args.checkpoint,
            args.out,
            args.to,
            args.overwrite,
            source=args.source,
            network=args.network,
            trust=args.trust,
            num_heads=args.num_heads,
            size=args.size,
        )
    print(f'{args.checkpoint} -> {args.out}: {report}')
