"""Folders of images, and a machine with GPUs that need not be there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cotap_mm.planning.devices import Device
from cotap_mm.planning.survey import Look, Survey


@pytest.fixture
def write(tmp_path):
    """Write an image of random blocks; returns its pixels."""

    def write_image(name, seed=0, size=(60, 80), mode='RGB'):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
        image = Image.fromarray(pixels.repeat(10, 0).repeat(10, 1))
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert(mode).save(path)
        return image

    return write_image


@pytest.fixture
def survey():
    """Make a survey of images of one size."""

    def make(count=5000, size=(480, 640), **options):
        looks = [Look(i, f'{i}.jpg', *size, mode='RGB') for i in range(min(count, 100))]
        return Survey('DIR', count, looks, seconds_per_image=0.002, **options)

    return make


@pytest.fixture
def gpu():
    """Make a machine with GPUs of some memory."""

    def make(gigabytes=8, count=1, cores=16, rate=1e14):
        return Device('cuda', 'G', count, int(gigabytes * 2**30), rate, 'bfloat16', cores)

    return make
