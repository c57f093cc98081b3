"""Features with the options of ``cotap embed``."""

from __future__ import annotations

import argparse

from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.distributed.collectives import rank
from cotap_mm.distributed.file_barrier import PeerFailed
from cotap_mm.distributed.process_group import joined_processes
from cotap_mm.embedding.embed import embed


def run(args: argparse.Namespace) -> None:
    """Write the file on all ranks, and print what it contains on the first one."""
    with report_user_errors(PeerFailed), joined_processes(args.device) as args.device:
        features = embed(
            args.checkpoint,
            args.images,
            args.out,
            features=args.features,
            size=args.size[0] if args.size and len(args.size) == 1 else args.size,
            dtype=args.dtype,
            batch_size=args.batch_size,
            num_workers=args.workers,
            device=args.device,
            ann_file=args.ann_file,
            value_range=args.value_range or 'auto',
            overwrite=args.overwrite,
            network=args.network,
            output=args.output,
            num_heads=args.num_heads,
            trust=args.trust,
        )
        is_first = rank() == 0
    if is_first:
        shapes = (f'{name} {" x ".join(map(str, features.shape(name)))}' for name in features.names)
        skipped = f', {len(features.skipped)} skipped' if features.skipped else ''
        print(f'{len(features)} images -> {features.path}: {", ".join(shapes)}{skipped}')
