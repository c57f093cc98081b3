"""The data pipeline: images per second on one core, compared with a plain loader."""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms as T
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import functional as TF

from cotap_mm.datasets import ImageList, MultiCrop, NeighborPairs, save_neighbors
from cotap_mm.datasets.collate import collate_samples
from cotap_mm.datasets.sources.files import read_image
from cotap_mm.datasets.workers import start_worker
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD

from . import measuring


def make_images(folder: Path, count: int, height: int, width: int) -> None:
    """JPEGs of smooth random shapes with some noise, which compress about as photographs do."""
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))
        noise = rng.normal(0, 12, (height, width, 1))
        pixels = np.clip(image + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{index:04d}.jpg', quality=90)


class PlainLoader:
    """The released loader, restated: float crops of the whole image, colored on the CPU.

    Boxes are drawn by ours, so that both do the same crops; drawing takes microseconds.
    """

    def __init__(self, crop: MultiCrop) -> None:
        self.crop = crop
        self.color = T.Compose(
            [
                T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                T.RandomGrayscale(0.2),
                T.RandomApply([T.GaussianBlur(7, (0.1, 2.0))], p=0.5),
            ]
        )
        self.normalize = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)

    def __call__(self, path: Path, rng: np.random.Generator) -> list[Tensor]:
        """Return the crops of one image file."""
        with Image.open(path) as file:
            image = TF.to_tensor(file.convert('RGB'))  # (3, H, W), float
        boxes = self.crop.draw_boxes(image.shape[1], image.shape[2], rng)
        views = []
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            is_global = index < self.crop.num_global
            size = self.crop.global_size if is_global else self.crop.local_size
            view = TF.resized_crop(image, y1, x1, y2 - y1, x2 - x1, [size, size], antialias=True)
            views.append(self.normalize(self.color(view)))
            if is_global:
                views.append(self.normalize(view))  # what the teacher sees
        return views


def works(paths: list[Path], crop: MultiCrop) -> dict[str, Callable[[], None]]:
    """Ways to go through all images once."""
    plain = PlainLoader(crop)

    def each(work: Callable) -> Callable[[], None]:
        def through() -> None:
            rng = np.random.default_rng(0)
            for path in paths:
                work(path, rng)

        return through

    def only_crop(path: Path, rng: np.random.Generator) -> None:
        crop(decoded[path], rng)

    decoded = {path: read_image(path, crop.is_large_enough) for path in paths}
    return {
        'released, restated': each(plain),
        'ours': each(lambda path, rng: crop(read_image(path, crop.is_large_enough), rng)),
        'ours, JPEGs not reduced': each(lambda path, rng: crop(read_image(path), rng)),
        'decoding alone': each(lambda path, rng: read_image(path)),
        'decoding alone, reduced': each(lambda path, rng: read_image(path, crop.is_large_enough)),
        'crops alone': each(only_crop),
    }


def compare_ways(paths: list[Path], runs: int) -> list[dict[str, Any]]:
    """Rows about one core, from a file to crops."""
    times = measuring.take_turns(works(paths, MultiCrop()), runs)
    base, decoding = (times[name].median for name in ('released, restated', 'decoding alone'))
    return [
        {
            'what': name,
            'images/s of one core': round(len(paths) / each.median, 1),
            'spread': f'{each.spread:.0%}',
            'times faster': round(base / each.median, 2),
            'time / decoding': round(each.median / decoding, 2),
        }
        for name, each in times.items()
    ]


def decoders(paths: list[Path]) -> dict[str, Callable[[], None]]:
    """Libraries that decode JPEGs, from bytes to RGB pixels."""
    files = [path.read_bytes() for path in paths]

    def each(decode: Callable[[bytes], Any]) -> Callable[[], None]:
        return lambda: [decode(data) for data in files] and None

    def pillow(data: bytes, factor: int) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            if factor > 1:
                image.draft(None, (image.width // factor, image.height // factor))
            return np.asarray(image.convert('RGB'))

    def opencv(data: bytes, flag: int) -> np.ndarray:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)

    return {
        'Pillow': each(lambda data: pillow(data, 1)),
        'OpenCV': each(lambda data: opencv(data, cv2.IMREAD_COLOR)),
        'torchvision': each(
            lambda data: decode_jpeg(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
            )
        ),
        'Pillow, half size': each(lambda data: pillow(data, 2)),
        'OpenCV, half size': each(lambda data: opencv(data, cv2.IMREAD_REDUCED_COLOR_2)),
    }


def compare_decoders(paths: list[Path], runs: int) -> list[dict[str, Any]]:
    """Rows about decoding, from bytes to pixels."""
    times = measuring.take_turns(decoders(paths), runs)
    base = times['Pillow'].median
    return [
        {
            'decoder': name,
            'images/s of one core': round(len(paths) / each.median, 1),
            'spread': f'{each.spread:.0%}',
            'times faster': round(base / each.median, 2),
        }
        for name, each in times.items()
    ]


def write_neighbors(source: ImageList, folder: Path) -> tuple[str, str]:
    """Write a list of the images and neighbors that are the next images; return both files."""
    count = len(source)
    nearest = (np.arange(count)[:, None] + np.arange(1, min(8, count))) % count
    listed, neighbors = folder / 'list.txt', folder / 'neighbors.npz'
    listed.write_text('\n'.join(source.names) + '\n', encoding='utf-8')
    save_neighbors(neighbors, source.names, nearest)
    return str(listed), str(neighbors)


def compare_loaders(
    source: ImageList, folder: Path, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows about a loader of pairs with several processes, as the configs set it up."""
    ann_file, neighbors = write_neighbors(source, folder)
    # Four images a sample: an image and its neighbor in each of the two branches.
    data = NeighborPairs(
        dict(type='ImageList', root=str(source.root), ann_file=ann_file),
        neighbors,
        crop_on='auto' if args.device.startswith('cuda') else 'worker',
    )
    settings = [
        (workers, prefetch)
        for workers in args.workers
        for prefetch in (args.prefetch if workers else [None])
    ]
    # Four batches for each that is read ahead, so that all workers are busy most of the time.
    ahead = max(workers * (prefetch or 0) for workers, prefetch in settings)
    count = max(len(source), 4 * ahead * args.batch_size)
    loaders = {}
    for workers, prefetch in settings:
        name = f'{workers} workers' + (f', {prefetch} batches ahead' if workers else '')
        loaders[name] = DataLoader(
            data,
            args.batch_size,
            sampler=RandomSampler(data, replacement=True, num_samples=count),
            num_workers=workers,
            prefetch_factor=prefetch,
            persistent_workers=workers > 0,
            collate_fn=collate_samples,
            worker_init_fn=start_worker,
            pin_memory=args.device.startswith('cuda'),
        )
    times = measuring.take_turns(
        {name: lambda loader=loader: [None for _ in loader] for name, loader in loaders.items()},
        args.runs,
    )
    return [
        {
            'loader': name,
            'images/s': round(4 * count / each.median, 1),
            'spread': f'{each.spread:.0%}',
        }
        for name, each in times.items()
    ]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if args.images is None:
            make_images(Path(made), args.count, *args.size)
        source = ImageList(args.images or made)
        source.names = source.names[: args.count]
        paths = [source.root / name for name in source.names]
        height, width, _ = read_image(paths[0]).shape
        size = f'{width} x {height}'
        settings = dict(
            images=len(paths),
            first_image=size,
            dtype='uint8',
            runs=args.runs,
            torchvision=torchvision.__version__,
            pillow=PIL.__version__,
        )
        measuring.report(
            'Data pipeline: from an image to its 2 global and 4 local crops',
            compare_ways(paths, args.runs),
            'cpu',
            args.json,
            **settings,
        )
        jpegs = [path for path in paths if path.suffix.lower() in ('.jpg', '.jpeg')]
        if jpegs:
            measuring.report(
                'Decoding JPEGs',
                compare_decoders(jpegs, args.runs),
                'cpu',
                args.json and f'{args.json}.decoders.json',
                **settings,
            )
        if args.workers:
            measuring.report(
                'Loader of pairs',
                compare_loaders(source, Path(made), args),
                args.device,
                args.json and f'{args.json}.loader.json',
                batch_size=args.batch_size,
                **settings,
            )
