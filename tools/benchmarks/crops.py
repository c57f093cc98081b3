"""Crops in the workers and on the training device, compared with decoding alone."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode, decode_jpeg

from cotap_mm.datasets import ImageList, NeighborPairs, Visit
from cotap_mm.models.device_crops import with_crops

from . import measuring
from .data import make_images, write_neighbors

DECODING = 'torchvision, bytes to pixels'


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Time that this process computes in one call, which other processes hardly change."""
    start = time.process_time()
    work()
    return time.process_time() - start


def pairs_of(source: ImageList, folder: Path, crop_on: str) -> NeighborPairs:
    """Pairs of the images of a source."""
    ann_file, neighbors = write_neighbors(source, folder)
    config = dict(type='ImageList', root=str(source.root), ann_file=ann_file)
    return NeighborPairs(config, neighbors, crop_on=crop_on)


def worker_ways(
    source: ImageList, folder: Path, batch_size: int
) -> dict[str, tuple[Callable[[], Any], int]]:
    """What a worker does, and with how many images; each counts once for each branch."""
    files = [(source.root / name).read_bytes() for name in source.names]
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    keys = [Visit(index=index, count=0, seed=0) for index in range(batch_size)]
    worker, device = (pairs_of(source, folder, crop_on) for crop_on in ('worker', 'device'))
    images = 4 * len(keys)
    return {
        DECODING: (
            lambda: [decode_jpeg(data, ImageReadMode.RGB) for data in files] and None,
            len(files),
        ),
        'samples, crops in the worker': (lambda: [worker[key] for key in keys], images),
        'batch, crops in the worker': (
            lambda: default_collate(worker.__getitems__(keys)),
            images,
        ),
        'batch, crops on the device': (
            lambda: default_collate(device.__getitems__(keys)),
            images,
        ),
    }


def worker_part(source: ImageList, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows about one core."""
    ways = worker_ways(source, folder, args.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.runs + 1):
        for name, (work, count) in ways.items():
            seconds[name].append(cpu_seconds(work) / count)
    best = {name: min(each[1:]) for name, each in seconds.items()}
    decoding = best[DECODING]
    return [
        {
            'one core': name,
            'ms / image': round(1e3 * each, 3),
            'images/s': round(1 / each, 1),
            'time / decoding': round(each / decoding, 2),
        }
        for name, each in best.items()
    ]


def device_part(source: ImageList, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows about the crops of a batch on the device, with the copy to it."""
    keys = [Visit(index=index, count=0, seed=0) for index in range(args.batch_size)]
    batch = default_collate(pairs_of(source, folder, 'device').__getitems__(keys))
    pixels = batch['images']['pixels']
    if args.device.startswith('cuda'):
        batch['images']['pixels'] = [part.pin_memory() for part in pixels]
    times = measuring.take_turns(
        {
            'copy': lambda: [part.to(args.device) for part in batch['images']['pixels']],
            'copy and crop': lambda: with_crops(batch, args.device),
        },
        args.runs,
        device=args.device,
    )
    return [
        {
            'on the device': name,
            'ms / batch': round(1e3 * each.median, 2),
            'spread': f'{each.spread:.0%}',
            'MB': round(sum(part.nbytes for part in pixels) / measuring.MB, 1),
        }
        for name, each in times.items()
    ]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if args.images is None:
            make_images(Path(made), args.count, *args.size)
        source = ImageList(args.images or made)
        source.names = [
            name for name in source.names if Path(name).suffix.lower() in ('.jpg', '.jpeg')
        ][: args.count]
        if len(source.names) < 2:
            raise SystemExit(f'error: {args.images} must contain at least 2 JPEGs')
        rows = worker_part(source, Path(made), args) + device_part(source, Path(made), args)
    measuring.report(
        'Crops in the worker and on the device',
        rows,
        args.device,
        args.json,
        images=len(source.names),
        batch_size=args.batch_size,
        runs=args.runs,
    )
