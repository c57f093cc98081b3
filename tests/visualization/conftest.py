"""Small fakes that the tests of pictures share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

PALETTE = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
CLASSES = ('red', 'green', 'blue')


class FakeScenes:
    """Blue scenes with one red or green square."""

    CLASSES, PALETTE = CLASSES, PALETTE

    def __init__(self, count=4, size=32):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def label(self, index):
        label = np.full((self.size, self.size), 2, dtype=np.uint8)
        label[8:16, 8 * (index % 3) : 8 * (index % 3) + 8] = index % 2
        return label

    def read(self, index, enough=None):
        return np.array(PALETTE, dtype=np.uint8)[self.label(index)]


class FakeAlgorithm(nn.Module):
    """Interface of CoTAP on mean colors; 6 channels with the filter, 3 without."""

    patch_size = 8
    neck = SimpleNamespace(num_prototypes=3)

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def encode(self, images, network='student', output='filter'):
        patches = nn.functional.avg_pool2d(images, 8) + self.bias
        if output == 'filter':
            patches = torch.cat([patches, -patches], dim=1)
        return patches.mean(dim=(2, 3)), patches

    def foreground(self, images, network='teacher'):
        return nn.functional.avg_pool2d(images, 8)[:, 0] > 0

    def prototype_attention(self, images, network='student'):
        patches = nn.functional.avg_pool2d(images, 8)  # (B, 3, h, w)
        return patches.softmax(dim=1).permute(0, 2, 3, 1)[:, None]  # (B, 1, h, w, 3)


@pytest.fixture
def scenes():
    return FakeScenes()


@pytest.fixture
def make_algorithm():
    return FakeAlgorithm
