"""Write weights of any supported source to a file in our names.

Training and downstream configs need no conversion: PretrainedViT reads the original
files. This is for people who want a file.

Example: python tools/convert.py dino_deitsmall16_pretrain.pth dino_vits16.pth --layout vit
"""
import argparse

from cotap_mm.weights import SOURCES, convert
from cotap_mm.weights.conversion import LAYOUTS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='file or URL to read')
    parser.add_argument('out', help='file to write, *.pth or *.safetensors')
    parser.add_argument('--source', default='auto', choices=['auto', *sorted(SOURCES)],
                        help='whose names the file has; recognised by default')
    parser.add_argument('--branch', choices=['student', 'teacher'],
                        help='which network of a file with both; by default the student of CoTAP '
                        'and the teacher of DINO, iBOT and Mugs')
    parser.add_argument('--layout', default='algorithm', choices=LAYOUTS,
                        help='names of the CoTAP algorithm (default), or of '
                        'mmpretrain.VisionTransformer alone')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    parser.add_argument('--trust', action='store_true',
                        help='unpickle the checkpoint fully: it can run code; known files only')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        report = convert(args.checkpoint, args.out, args.overwrite, source=args.source,
                         branch=args.branch, layout=args.layout, trust=args.trust)
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    print(f'{args.checkpoint} -> {args.out}: {report}')


if __name__ == '__main__':
    main()
