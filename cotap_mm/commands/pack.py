"""Packing of images with the options of ``cotap pack``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets import ImageList, pack_images, pack_shards
from cotap_mm.datasets.sources.packed import is_packed_file
from cotap_mm.datasets.sources.shards.pack import SHARD_BYTES
from cotap_mm.files.overwrite import check_replaceable


def run(args: argparse.Namespace) -> None:
    """Pack the images, and report those that could not be read."""
    chosen = args.format or ('lmdb' if Path(args.out).suffix else 'tar')
    with report_user_errors():
        if chosen == 'lmdb' and args.shard_size is not None:
            raise ValueError(
                f'--shard-size is for shards, and {args.out} is one file; remove it, or give a '
                'folder with --out and --format tar'
            )
        if chosen == 'lmdb':
            check_replaceable(args.out, is_packed_file, 'a file of packed images', args.overwrite)
        source = ImageList(args.images, args.ann_file)
        if chosen == 'lmdb':
            failed = pack_images(source, args.out, args.threads)
        else:
            failed = pack_shards(
                source, args.out, args.shard_size or SHARD_BYTES, args.threads, args.overwrite
            )
    paths = sorted(Path(args.out).glob('*.tar')) if chosen == 'tar' else [Path(args.out)]
    size = sum(os.path.getsize(path) for path in paths) / 2**30
    shards = f' ({len(paths)} shards)' if chosen == 'tar' else ''
    print(f'\n{len(source)} images -> {args.out}{shards}, {size:.2f} GB')
    if failed:
        print(
            f'{len(failed)} of them could not be read and will count as bad images:\n  '
            + '\n  '.join(failed[:20])
        )
