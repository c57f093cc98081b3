"""Search of neighbors with the options of ``cotap neighbors``."""

from __future__ import annotations

import argparse
from typing import Optional

from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets import SearchOptions, build_neighbors, open_images
from cotap_mm.datasets.neighbors.file import OLD_SUFFIX, is_neighbor_file
from cotap_mm.deprecation import warn_renamed
from cotap_mm.distributed.collectives import rank
from cotap_mm.distributed.file_barrier import PeerFailed
from cotap_mm.distributed.process_group import joined_processes
from cotap_mm.encoders.global_encoder import GlobalEncoder
from cotap_mm.files.overwrite import check_replaceable


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


def run(args: argparse.Namespace) -> None:
    """Build the neighbor file, on all ranks."""
    with report_user_errors(PeerFailed), joined_processes(args.device) as args.device:
        if args.out.endswith(OLD_SUFFIX) and rank() == 0:
            warn_renamed('cotap neighbors --out FILE.npz', '--out FILE.npy')
        check_replaceable(args.out, is_neighbor_file, 'a neighbor file', args.overwrite)
        source = open_images(args.images, args.ann_file, args.value_range or 'auto')
        backbone, checkpoint = choose_backbone(args)
        encoder = GlobalEncoder(
            backbone, checkpoint, args.image_size, args.device, trust=args.trust
        )
        out = build_neighbors(
            source,
            encoder,
            args.out,
            args.num_neighbors,
            args.batch_size,
            args.workers,
            args.faiss,
            SearchOptions(args.search, args.nprobe, args.feature_dtype),
        )
        is_first = rank() == 0
    if is_first:
        print(f'\n{len(source)} images -> {out}')
