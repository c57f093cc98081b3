"""Work of the gloo processes that build one neighbor file; importable by the processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch


class Colors:
    """Images with a single color each."""

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def name(self, index):
        return f'{index}.png'

    def read(self, index, is_large_enough=None):
        if index in self.broken:
            from cotap_mm.datasets import BadImage

            raise BadImage(f'{index}.png')
        return np.full((8, 8, 3), (index * 37) % 256, dtype=np.uint8)


class Encoder:
    """Map color to an angle; fail after ``stop_after`` images."""

    identity, image_size, device = 'color', 8, 'cpu'

    def __init__(self, stop_after=10**9, seconds=0):
        self.seen, self.stop_after, self.seconds = 0, stop_after, seconds
        self.at_end = lambda: None

    def __call__(self, images):
        if self.seen + len(images) > self.stop_after:
            raise ValueError('the network broke')
        self.seen += len(images)
        time.sleep(self.seconds)
        if self.seen > 6:
            self.at_end()
        angle = images.mean(dim=(1, 2, 3)) * 0.5
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def build(folder, encoder=None, count=23, broken=(5,), options=None):
    from cotap_mm.datasets import build_neighbors
    from cotap_mm.datasets.neighbors import search as neighbor_search

    encoder = encoder or Encoder()
    with mock.patch.object(neighbor_search, '_PART', 4):
        path = build_neighbors(
            Colors(count, broken),
            encoder,
            Path(folder) / 'n.npy',
            3,
            2,
            num_workers=0,
            options=options,
        )
    return dict(indices=torch.from_numpy(np.load(path)), seen=encoder.seen)


class Together:
    """Build the file on each rank, in a shared folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, rank):
        return build(self.folder)


class OneBreaks(Together):
    """Rank 1 raises an error."""

    def __call__(self, rank):
        try:
            build(self.folder, Encoder(stop_after=4 if rank else 10**9))
        except (RuntimeError, ValueError) as error:
            return f'{type(error).__name__}: {error}'


class OneIsLost(Together):
    """Rank 1 dies or is stopped; rank 0 writes its error message to a file."""

    def __init__(self, folder, number):
        super().__init__(folder)
        self.number = number

    def __call__(self, rank):
        encoder = Encoder()
        if rank:
            encoder.at_end = lambda: os.kill(os.getpid(), self.number)
        try:
            build(self.folder, encoder)
        except RuntimeError as error:
            (Path(self.folder) / 'message').write_text(f'{type(error).__name__}: {error}')
            os._exit(1)  # without waiting for the other rank


def build_slowly(folder, identity, delay, errors):
    """Build the file slowly, as one of several concurrent runs."""
    time.sleep(delay)
    start = time.monotonic()
    encoder = Encoder(seconds=0.05)
    encoder.identity = identity
    try:
        errors.put((build(folder, encoder)['seen'], start, time.monotonic()))
    except RuntimeError as error:
        errors.put((str(error), start, time.monotonic()))


class OneDeletes(Together):
    """Delete the features of rank 0 while rank 1 is computing."""

    def __call__(self, rank):
        encoder = Encoder()
        if rank:
            encoder.at_end = self.delete
        try:
            build(self.folder, encoder)
        except (RuntimeError, SystemExit) as error:
            return f'{type(error).__name__}: {error}'

    def delete(self):
        first = []
        while not first:  # rank 0 is done with it
            time.sleep(0.05)
            first = list(Path(self.folder).glob('n.npy.features.*.00000.json'))
        time.sleep(0.5)
        for path in first:
            path.unlink(missing_ok=True)
