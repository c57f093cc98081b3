"""Crops resized at once have the bits of PyTorch's uint8 kernel for one crop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cotap_mm.ops.resampling import crops as module
from cotap_mm.ops.resampling import resize_boxes, resize_region, resize_regions

SIZES = (1, 8, 32, 96)


def packed(seed=0, num_images=5, per_image=5, largest=400):
    """Random images of all shapes, and random boxes in them: pixels, regions, images."""
    rng = np.random.default_rng(seed)
    images, regions, start = [], [], 0
    for index in range(num_images):
        height, width = rng.integers(1, largest, 2).tolist()
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if index % 2:  # flat parts and edges: the largest and the smallest values of a sum
            image = np.where(image < 128, np.uint8(0), np.uint8(255))
        for _ in range(per_image):
            x1, x2 = sorted(rng.choice(width + 1, 2, replace=False).tolist())
            y1, y2 = sorted(rng.choice(height + 1, 2, replace=False).tolist())
            regions.append((start, width, x1, y1, x2, y2))
        images += [torch.from_numpy(image)] * per_image
        start += height * width
    pixels = torch.cat([image.flatten(0, 1) for image in images[::per_image]])
    return pixels, torch.tensor(regions), images


def one_by_one(images, regions, size):
    boxes = regions[:, 2:].tolist()
    return torch.stack([resize_region(*pair, size) for pair in zip(images, boxes)])


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('at_once', [None, False, True])
def test_equal_bits(size, at_once):
    pixels, regions, images = packed(seed=size)
    got = resize_regions(pixels, regions, size, at_once)
    assert got.dtype == torch.uint8 and got.shape == (25, size, size, 3)
    assert torch.equal(got, one_by_one(images, regions, size))
    assert got.float().std() > 1  # the pictures are not flat


@pytest.mark.parametrize('scratch', [1 << 21, 3000])  # some regions need memory of their own
def test_boxes_of_an_image_in_several_threads(scratch, monkeypatch):
    _, regions, images = packed(seed=3, num_images=8)
    monkeypatch.setattr(module, '_SCRATCH', scratch)

    def cut(first):
        outs = torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.zeros(3, 8, 8, 3).byte()
        # Not contiguous: the channels are reversed, as those of OpenCV are.
        image = images[first].flip(2).numpy()[..., ::-1]
        resize_boxes(image, regions[first : first + 5, 2:].tolist(), outs)
        return outs

    starts = range(0, 40, 5)
    with ThreadPoolExecutor(4) as pool:
        for first, outs in zip(starts, pool.map(cut, starts)):
            for low, out in zip((first, first + 2), outs):
                some = slice(low, low + len(out))
                assert torch.equal(out, one_by_one(images[some], regions[some], out.shape[1]))


def test_memory_is_bounded_and_chunks_do_not_matter(monkeypatch):
    pixels, regions, _ = packed(seed=1)
    wanted, sizes = resize_regions(pixels, regions, 32, at_once=True), []
    resize = module._resize

    def watched(pixels, regions, size, tallest, *taps):
        sizes.append((len(regions), len(regions) * tallest * size))
        return resize(pixels, regions, size, tallest, *taps)

    monkeypatch.setattr(module, '_resize', watched)
    for chunk in (20_000, 1):
        sizes.clear()
        monkeypatch.setattr(module, '_CHUNK', chunk)
        assert torch.equal(resize_regions(pixels, regions, 32, at_once=True), wanted)
        assert sum(count for count, _ in sizes) == len(regions) and len(sizes) > 3
        assert all(count == 1 or work <= chunk for count, work in sizes)


def test_more_taps_than_needed_change_nothing():
    """Compiled kernels have one of two numbers of taps."""
    pixels, regions, _ = packed(seed=2, largest=120)
    height = int((regions[:, 5] - regions[:, 3]).max())
    few, many = (module._resize(pixels, regions, 32, height, taps, taps) for taps in (9, 15))
    assert torch.equal(few, many)


def test_the_graph_has_no_breaks_and_serves_all_sizes():
    count = 0

    def backend(graph, _):
        nonlocal count
        count += 1
        return graph.forward

    fused = torch.compile(module._resize, backend=backend, dynamic=True, fullgraph=True)
    for seed, size in ((3, 24), (4, 40), (5, 24)):
        pixels, regions, _ = packed(seed, num_images=seed, largest=90)
        height = int((regions[:, 5] - regions[:, 3]).max())
        wanted = module._resize(pixels, regions, size, height, 9, 9)
        assert torch.equal(fused(pixels, regions, size, height, 9, 9), wanted)
    assert count == 1


def test_no_crops():
    pixels, regions, _ = packed()
    for at_once in (False, True):
        got = resize_regions(pixels, regions[:0], 16, at_once)
        assert got.shape == (0, 16, 16, 3) and got.dtype == torch.uint8


def test_regions_belong_on_the_cpu():
    pixels, regions, _ = packed()
    with pytest.raises(ValueError, match='regions must be on the CPU, got meta; only pixels'):
        resize_regions(pixels, regions.to('meta'), 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('compiles', [False, True])
def test_equal_bits_on_a_gpu(compiles, monkeypatch):
    if not compiles:
        monkeypatch.setattr(module, 'can_compile', lambda: False)
    for size in SIZES:
        pixels, regions, images = packed(seed=size)
        with torch.autocast('cuda', dtype=torch.float16):
            got = resize_regions(pixels.cuda(), regions, size)
        assert got.is_cuda and torch.equal(got.cpu(), one_by_one(images, regions, size))
