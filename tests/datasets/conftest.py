"""Small image sources, and neighbor files with known neighbors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cotap_mm.datasets import save_neighbors


class Arrays:
    """Image source in memory; images in ``bad`` cannot be read."""

    def __init__(self, count, bad=(), size=(24, 32)):
        self.bad, self.size, self.reads = set(bad), size, []
        self.names = [f'{i:03d}.png' for i in range(count)]

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]

    def read(self, index, is_large_enough=None):
        from cotap_mm.datasets import BadImage

        self.reads.append(index)
        if index in self.bad:
            raise BadImage(f'{self.names[index]}: broken')
        return np.full((*self.size, 3), index % 256, dtype=np.uint8)


@pytest.fixture
def arrays():
    return Arrays


@pytest.fixture
def ring(tmp_path):
    """Neighbor file in which the neighbors of i are i + 1, i + 2, ..."""

    def make(names, k=3, name='neighbors.npz'):
        count = len(names)
        k = min(k, count - 1)
        indices = (np.arange(count)[:, None] + np.arange(1, k + 1)) % count
        path = tmp_path / name
        save_neighbors(path, names, indices, dict(num_images=count))
        return str(path)

    return make


@pytest.fixture
def photos(tmp_path):
    """Folder of 6 small images with different colors, two of them in a subfolder."""
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    for i, name in enumerate(['b.jpg', 'a.png', 'c.PNG', 'd.jpeg', 'more/a.png', 'more/e.webp']):
        pixels = np.full((20, 30, 3), 40 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder
