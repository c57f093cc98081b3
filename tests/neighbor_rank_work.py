"""What two gloo processes do to build one neighbour file; importable by the processes."""
from pathlib import Path

import numpy as np
import torch


class Colors:
    """Images of one colour each."""

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def name(self, index):
        return f'{index}.png'

    def read(self, index, enough=None):
        if index in self.broken:
            from cotap_mm.datasets import BadImage
            raise BadImage(f'{index}.png')
        return np.full((8, 8, 3), (index * 37) % 256, dtype=np.uint8)


class Encoder:
    """Colour as an angle; fails after ``stop_after`` images."""
    identity, image_size, device = 'colour', 8, 'cpu'

    def __init__(self, stop_after=10**9):
        self.seen, self.stop_after = 0, stop_after

    def __call__(self, images):
        if self.seen + len(images) > self.stop_after:
            raise ValueError('the network broke')
        self.seen += len(images)
        angle = images.mean(dim=(1, 2, 3)) * 0.5
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def build(folder, encoder=None, count=23, broken=(5, )):
    from cotap_mm.datasets import build_neighbors, neighbor_search
    neighbor_search._PART = 4
    encoder = encoder or Encoder()
    path = build_neighbors(Colors(count, broken), encoder, Path(folder) / 'n.npz', 3, 2,
                           num_workers=0)
    with np.load(path) as file:
        return dict(indices=torch.from_numpy(file['indices']), seen=encoder.seen)


class Together:
    """The work of each rank, in a folder that both see."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, rank):
        return build(self.folder)


class OneBreaks(Together):
    """Rank 1 fails on its way."""

    def __call__(self, rank):
        try:
            build(self.folder, Encoder(stop_after=4 if rank else 10**9))
        except (RuntimeError, ValueError) as error:
            return f'{type(error).__name__}: {error}'
