"""Crops in the workers and on the training device, compared with decoding alone."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
from torch.utils.data import DataLoader, default_collate
from torchvision.io import ImageReadMode, decode_jpeg

from cotap_mm.datasets import (
    ImageList,
    NeighborPairs,
    Visit,
    collate_samples,
    start_worker,
)
from cotap_mm.models.device_crops import with_crops

from . import measuring
from .data import make_images, write_neighbors

CROP_ON = ('worker', 'device', 'device_jpeg')
WHERE = ('crops in the worker', 'crops on the device', 'JPEGs as files')
DECODING = 'torchvision, bytes to pixels'
_LARGE_BLOCK = 31 << 20  # bytes; the pixels of an image take less


def pairs_of(source: ImageList, folder: Path, crop_on: str) -> NeighborPairs:
    """Pairs of the images of a source."""
    ann_file, neighbors = write_neighbors(source, folder)
    config = dict(type='ImageList', root=str(source.root), ann_file=ann_file)
    return NeighborPairs(config, neighbors, crop_on=crop_on)


def decoding(source: ImageList) -> Callable[[], Any]:
    """Decoding all images of a source, from bytes in memory to pixels, without page faults.

    They took 0 to 0.5 of 1.8 ms per image of 480 x 360, depending on what the process had freed
    before: glibc maps memory anew until it has freed a larger block of up to 32 MiB.
    """
    torch.empty(_LARGE_BLOCK, dtype=torch.uint8)
    files = [(source.root / name).read_bytes() for name in source.names]
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    return lambda: [decode_jpeg(data, ImageReadMode.RGB) for data in files] and None


class OneWorker:
    """A loader with one worker that goes through the same batches in every call.

    Args:
        data (NeighborPairs): Its samples.
        batch_size (int): Samples in a batch.
        batches (int): Batches in a call. Defaults to 8.

    Attributes:
        images (int): Images of a call; each counts once for each branch.
    """

    def __init__(self, data: NeighborPairs, batch_size: int, batches: int = 8) -> None:
        visits = [
            Visit(index=index % len(data), count=0, seed=0) for index in range(batch_size * batches)
        ]
        self.images = 4 * len(visits)
        self.loader = DataLoader(
            data,
            batch_size,
            sampler=visits,
            num_workers=1,
            persistent_workers=True,
            worker_init_fn=start_worker,
            collate_fn=collate_samples,
        )

    def __call__(self) -> None:
        """Read all batches, a value of each page."""
        for batch in self.loader:
            if 'images' in batch:
                images = batch['images']
                tensors = [*images['pixels'], *images.get('jpeg_files', ())]
            else:
                kinds = 'global_crops', 'local_crops'
                tensors = [branch[kind] for branch in batch.values() for kind in kinds]
            for tensor in tensors:
                tensor.flatten()[::4096].sum()

    def seconds(self) -> float:
        """CPU time of the worker, after the first call, and of this process."""
        iterator = self.loader._iterator
        if iterator is None:
            return time.process_time()
        tasks = Path(f'/proc/{iterator._workers[0].pid}/task').glob('*/schedstat')
        nanoseconds = sum(int(task.read_text().split()[0]) for task in tasks)
        return time.process_time() + nanoseconds / 1e9


def worker_ways(
    source: ImageList, folder: Path, batch_size: int
) -> dict[str, tuple[Callable[[], Any], int, Callable[[], float]]]:
    """What a worker does, with how many images, and its clock."""
    keys = [Visit(index=index, count=0, seed=0) for index in range(batch_size)]
    worker, device, files = (pairs_of(source, folder, crop_on) for crop_on in CROP_ON)
    clock, images = time.process_time, 4 * len(keys)
    loaders = [OneWorker(each, batch_size) for each in (worker, device, files)]
    return {
        DECODING: (decoding(source), len(source.names), clock),
        'samples, crops in the worker': (lambda: [worker[key] for key in keys], images, clock),
        'samples, crops on the device': (lambda: device.__getitems__(keys), images, clock),
        'samples, JPEGs as files': (lambda: files.__getitems__(keys), images, clock),
        **{
            f'loader with one worker, {what}': (loader, loader.images, loader.seconds)
            for what, loader in zip(WHERE, loaders)
        },
    }


def worker_part(source: ImageList, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows about one core."""
    ways = worker_ways(source, folder, args.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.runs + 1):
        for name, (work, count, clock) in ways.items():
            seconds[name].append(measuring.seconds_of(work, clock=clock) / count)
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
    batch, files = (
        default_collate(pairs_of(source, folder, crop_on).__getitems__(keys))
        for crop_on in CROP_ON[1:]
    )
    pixels, jpegs = batch['images']['pixels'], files['images'].get('jpeg_files', [])
    if args.device.startswith('cuda'):
        batch['images']['pixels'] = [part.pin_memory() for part in pixels]
    sent = {'copy': pixels, 'copy and crop': pixels, 'copy, decode and crop': jpegs}
    times = measuring.take_turns(
        {
            'copy': lambda: [part.to(args.device) for part in batch['images']['pixels']],
            'copy and crop': lambda: with_crops(batch, args.device),
            'copy, decode and crop': lambda: with_crops(files, args.device),
        },
        args.runs,
        device=args.device,
    )
    return [
        {
            'on the device': name,
            'ms / batch': round(1e3 * each.median, 2),
            'spread': f'{each.spread:.0%}',
            'MB': round(sum(part.nbytes for part in sent[name]) / measuring.MB, 2),
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
