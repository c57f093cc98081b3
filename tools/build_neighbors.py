"""Find each image's nearest neighbours by a frozen ViT; training draws positives from them.

Example: python tools/build_neighbors.py data/coco/train2017 --out data/coco/neighbors.npz \
    --checkpoint dino_vitbase16_pretrain.pth
"""
import argparse

import torch

from cotap_mm.datasets import ImageList, build_neighbors
from cotap_mm.datasets.neighbor_search import encoder_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', help='folder of images, read recursively')
    parser.add_argument('--out', required=True, help='neighbour file to write, *.npz')
    parser.add_argument('--ann-file', help='text list or COCO json of the images to use')
    parser.add_argument('--backbone', default='deit-base',
                        help='arch of the ViT: deit-small is ViT-S, deit-base ViT-B (default)')
    parser.add_argument('--patch-size', type=int, default=16)
    parser.add_argument('--checkpoint', help='weights of any supported source (file or URL); '
                        'without it the features are random')
    parser.add_argument('--num-neighbors', type=int, default=7)
    parser.add_argument('--image-size', type=int, default=224)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--faiss', action='store_true', help='search with faiss')
    parser.add_argument('--trust', action='store_true',
                        help='unpickle the checkpoint fully: it can run code; known files only')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    source = ImageList(args.images, args.ann_file)
    if not args.checkpoint:
        print('No --checkpoint: features of a random ViT. Give DINO weights for real use.')
    backbone = dict(type='cotap_mm.DINOViT', arch=args.backbone, patch_size=args.patch_size,
                    img_size=args.image_size)
    torch.manual_seed(0)
    encode = encoder_of(backbone, args.checkpoint, args.device, trust=args.trust)
    identity = f'{args.backbone}/{args.patch_size} {args.checkpoint}'
    out = build_neighbors(source, encode, args.out, args.num_neighbors, args.image_size,
                          args.batch_size, args.workers, args.device, identity, args.faiss)
    print(f'\n{len(source)} images -> {out}')


if __name__ == '__main__':
    main()
