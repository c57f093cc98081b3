"""Write weights of any supported source for another library.

Training and downstream configs need no conversion: PretrainedViT reads the original
files. This is for people who want a file.

    python tools/convert.py work_dirs/vits_coco/iter_240000.pth cotap.safetensors --to safetensors
    python tools/convert.py work_dirs/vits_coco/iter_240000.pth cotap.onnx --to onnx --size 448 448
    python tools/convert.py dino_deitsmall16_pretrain.pth dino_vits16 --to hf
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from cotap_mm.command_line.arguments import Parser, out_path, positive_int
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.export import TARGETS, convert
from cotap_mm.weights import SOURCES


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='file or URL to read')
    parser.add_argument(
        'out',
        type=out_path,
        help='file to write: *.pth or *.safetensors, *.onnx, *.pt; a folder for hf',
    )
    parser.add_argument(
        '--to',
        default='cotap',
        choices=list(TARGETS),
        help='plain ViT for mmpretrain, mmseg, timm, hf; with the filter as '
        'safetensors, onnx, torchscript; everything in our names (cotap, default)',
    )
    parser.add_argument(
        '--source',
        default='auto',
        choices=['auto', *sorted(SOURCES)],
        help='whose names the file has; recognised by default',
    )
    parser.add_argument(
        '--branch',
        choices=['student', 'teacher'],
        help='which network of a file with both; by default the student of CoTAP '
        'and the teacher of DINO, iBOT and Mugs',
    )
    parser.add_argument(
        '--size',
        type=positive_int,
        nargs=2,
        default=(224, 224),
        metavar=('H', 'W'),
        help='size of the images of onnx and torchscript (default: 224 224)',
    )
    parser.add_argument(
        '--num-heads', type=positive_int, help='attention heads, if the file does not tell'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle the checkpoint fully: it can run code; known files only',
    )
    return parser.parse_args(argv)


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with report_user_errors():
        if Path(args.out).resolve() == Path(args.checkpoint).resolve():
            raise ValueError(
                f'{args.out} is the checkpoint itself; give another name for the result'
            )
        report = convert(
            args.checkpoint,
            args.out,
            args.to,
            args.overwrite,
            source=args.source,
            branch=args.branch,
            trust=args.trust,
            num_heads=args.num_heads,
            size=args.size,
        )
    print(f'{args.checkpoint} -> {args.out}: {report}')


if __name__ == '__main__':
    main()
