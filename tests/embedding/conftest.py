"""An encoder of mean colors, and images for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cotap_mm.encoders.encoder import Encoder


class Colors(Encoder):
    """Three channels of a random projection; fails when it is asked to."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        super().__init__(nn.Conv2d(3, 3, 8, stride=8), 8)
        self.left = None  # batches until it is interrupted
        self.scale = 1.0

    def _encode(self, images):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        patches = self.module(images) * self.scale
        return patches.mean(dim=(2, 3)) + 1, patches


@pytest.fixture
def encoder():
    return Colors()


@pytest.fixture
def photos(tmp_path):
    """Seven images of two sizes in two folders, and one that is damaged."""
    rng = np.random.default_rng(0)
    for index in range(7):
        pixels = rng.integers(0, 256, (24 + 8 * (index % 2), 24, 3), dtype=np.uint8)
        path = tmp_path / 'photos' / 'ab'[index % 2] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / 'photos' / 'a' / '5-broken.png').write_bytes(b'no image')
    return tmp_path / 'photos'
