"""Compute the nearest neighbors of each image with a frozen ViT, for drawing positives in training.

    python tools/build_neighbors.py data/coco/train2017 --out data/coco/neighbors.npz
    python tools/build_neighbors.py DIR --backbone deit-small --checkpoint dino.pth --out nn.npz

    torchrun --nproc_per_node 8 tools/build_neighbors.py data/imagenet/train --out nn.npz

The work is sharded across processes. To resume an interrupted run, start it again, with any number
of processes.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

import argparse
from typing import Optional

from cotap_mm.command_line.arguments import Parser, add_device, out_file, positive_int, whole_number
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.shared_options import add_ann_file, add_trust, add_value_range
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.datasets import build_neighbors, open_images
from cotap_mm.datasets.neighbors.file import is_neighbor_file
from cotap_mm.distributed.collectives import rank
from cotap_mm.distributed.file_barrier import PeerFailed
from cotap_mm.distributed.process_group import joined_processes
from cotap_mm.encoders.global_encoder import GlobalEncoder
from cotap_mm.files.overwrite import add_overwrite, check_replaceable


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        'images', help='folder of images (read recursively), text list, COCO json, *.lmdb'
    )
    parser.add_argument(
        '--out',
        type=out_file('.npz'),
        required=True,
        help='neighbor file to write (*.npz); replaces an existing neighbor file',
    )
    add_overwrite(parser)
    add_ann_file(parser)
    add_value_range(parser)
    parser.add_argument(
        '--backbone',
        default='configs/cotap/vitb_coco.py',
        help='config whose backbone and initial weights are used (default: '
        '%(default)s, DINO ViT-B/16), or an arch of MMPretrain: deit-small is '
        'ViT-S, deit-base is ViT-B',
    )
    parser.add_argument(
        '--patch-size', type=positive_int, default=16, help='only if --backbone is an arch'
    )
    parser.add_argument(
        '--checkpoint',
        help="other weights of any supported format (file or URL); 'none' for random weights",
    )
    parser.add_argument('--num-neighbors', type=positive_int, default=7)
    parser.add_argument(
        '--image-size',
        type=positive_int,
        default=224,
        metavar='PIXELS',
        help='side of the center crops, a multiple of the patch size (default: %(default)s)',
    )
    parser.add_argument('--batch-size', type=positive_int, default=32)
    parser.add_argument('--workers', type=whole_number(0), default=2)
    add_device(parser)
    parser.add_argument('--faiss', action='store_true', help='search with faiss')
    add_trust(parser, 'the checkpoint')
    return parser.parse_args(argv)


def choose_backbone(args: argparse.Namespace) -> tuple[dict, Optional[str]]:
    """Return the config of the backbone and its checkpoint; None for random weights."""
    if args.backbone.endswith('.py'):
        model = load_config(args.backbone).model
        backbone = model.backbone.to_dict()
        default = (model.get('init_cfg') or {}).get('checkpoint')
    else:
        from mmpretrain.models.backbones import VisionTransformer  # after cotap_mm, see compat/

        known = VisionTransformer.arch_zoo
        if args.backbone not in known:
            raise ValueError(
                '--backbone must be a config (*.py) or an arch of MMPretrain, '
                f'{", ".join(known)}, got {args.backbone!r}'
            )
        backbone = dict(
            type='cotap_mm.DINOViT',
            arch=args.backbone,
            patch_size=args.patch_size,
            img_size=args.image_size,
        )
        default = None
    checkpoint = args.checkpoint or default
    if not checkpoint:
        raise ValueError(
            f'--backbone {args.backbone} needs weights: give --checkpoint FILE, or '
            "'none' for random weights"
        )
    return backbone, None if checkpoint == 'none' else checkpoint


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with report_user_errors(PeerFailed), joined_processes(args.device) as args.device:
        check_replaceable(args.out, is_neighbor_file, 'a neighbor file', args.overwrite)
        source = open_images(args.images, args.ann_file, args.value_range or 'auto')
        backbone, checkpoint = choose_backbone(args)
        encoder = GlobalEncoder(
            backbone, checkpoint, args.image_size, args.device, trust=args.trust
        )
        out = build_neighbors(
            source, encoder, args.out, args.num_neighbors, args.batch_size, args.workers, args.faiss
        )
        is_first = rank() == 0
    if is_first:
        print(f'\n{len(source)} images -> {out}')


if __name__ == '__main__':
    main()
