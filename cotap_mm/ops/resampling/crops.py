"""Crop and resize regions of packed uint8 images, many at once, on any device.

On a CPU, each crop is a call of ``F.interpolate(mode='bilinear', antialias=True)`` on uint8.
PyTorch has no such kernel for a GPU, and its float kernel takes a call per crop. So all crops are
resized at once there, by the same arithmetic and to the same bits: a triangle filter as wide as an
output pixel, whose weights are rounded to 16 bits, applied to rows and then to columns, each
rounded to uint8.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.compat.compiled import can_compile, compiled

_WEIGHT_BITS = 15  # of the largest weight, without its sign
_MOST_BITS = 22  # of the fraction
_SCRATCH = 1 << 21  # bytes; a larger region, of more than 0.7 million pixels, gets new memory
_CHUNK = 1 << 23  # input rows x output columns resized at a time, about 45 bytes each
_KERNEL = getattr(torch._C._nn, '_upsample_bilinear2d_aa', None)
_FUSED_TAPS = (5, 9)  # compiled for regions of up to 2 and up to 4 times the side of their crops


def resize_region(
    image: Tensor, box: tuple[int, int, int, int], size: int, out: Optional[Tensor] = None
) -> Tensor:
    """Crop and resize one region of an image on the CPU.

    Args:
        image (Tensor): Shape (H, W, 3), uint8.
        box (tuple[int, int, int, int]): x1, y1, x2, y2 in pixels.
        size (int): Side of the crop in pixels.
        out (Tensor, optional): Contiguous memory for the crop. Defaults to None, new memory.

    Returns:
        Tensor: Shape (size, size, 3), uint8.
    """
    if out is None:
        out = torch.empty(size, size, 3, dtype=torch.uint8)
    resize_boxes(image.numpy(), [box], [out[None]])
    return out


def resize_boxes(
    image: np.ndarray, boxes: Sequence[tuple[int, int, int, int]], outs: Sequence[Tensor]
) -> None:
    """Crop and resize regions of one image on the CPU, with little work for each of them.

    Args:
        image (np.ndarray): Pixels, shape (H, W, 3), uint8.
        boxes (Sequence[tuple[int, int, int, int]]): x1, y1, x2, y2 in pixels.
        outs (Sequence[Tensor]): Contiguous memory for the crops, in the order of the boxes, each
            (N, size, size, 3), uint8.
    """
    with torch.inference_mode():  # less work for each call
        crops = [crop for out in outs for crop in out.permute(0, 3, 1, 2)[:, None].unbind()]
        for (x1, y1, x2, y2), crop in zip(boxes, crops):
            height, width = y2 - y1, x2 - x1
            array, tensor = _scratch(3 * height * width)
            # The kernel needs contiguous pixels, which NumPy copies in a quarter of PyTorch's time.
            np.copyto(array.reshape(height, width, 3), image[y1:y2, x1:x2])
            strides = (3 * height * width, 1, 3 * width, 3)  # channels-last
            _resize_into(tensor.as_strided((1, 3, height, width), strides), crop)


class _Memory(threading.local):
    """Memory of a thread that stays in the processor's caches from crop to crop."""

    def __init__(self) -> None:
        self.array = np.empty(_SCRATCH, np.uint8)
        self.tensor = torch.from_numpy(self.array)


_memory = _Memory()


def _scratch(number: int) -> tuple[np.ndarray, Tensor]:
    """Memory of a number of bytes until the next call in this thread, as array and as tensor."""
    if number > _SCRATCH:
        array = np.empty(number, np.uint8)
        return array, torch.from_numpy(array)
    return _memory.array[:number], _memory.tensor


def _resize_into(image: Tensor, out: Tensor) -> None:
    """Resize to the size of ``out``; both (1, 3, h, w), uint8, channels-last."""
    # Directly on uint8: torchvision's resize converts to float, which is several times slower.
    if _KERNEL is not None:  # what interpolate calls, without its checks and its copy
        _KERNEL(image, out.shape[2:], False, out=out)
    else:
        out.copy_(F.interpolate(image, size=out.shape[2:], mode='bilinear', antialias=True))


def resize_regions(
    pixels: Tensor,
    regions: Tensor,
    size: int,
    at_once: Optional[bool] = None,
    there: Optional[Tensor] = None,
) -> Tensor:
    """Crop and resize regions of several images.

    Source: the separable convolution of Pillow's ``Image.resize``, which PyTorch follows.

    Args:
        pixels (Tensor): Pixels of all images, one image after the other, each row by row, shape
            (P, 3), uint8, on any device.
        regions (Tensor): One row per crop: index of the first pixel of its image, width of its
            image, then x1, y1, x2, y2 in pixels of its image; shape (N, 6), int64. On the CPU,
            since the sizes determine how the work is divided.
        size (int): Side of the crops in pixels.
        at_once (bool, optional): Whether to resize many crops in one pass, with bounded memory.
            Both ways give the same bits. Defaults to None: unless on the CPU.
        there (Tensor, optional): The regions on the device of the pixels. Defaults to None, copied
            if needed.

    Returns:
        Tensor: Shape (N, size, size, 3), uint8.

    Raises:
        ValueError: If ``regions`` is not on the CPU.
    """
    if regions.device.type != 'cpu':
        raise ValueError(
            f'regions must be on the CPU, got {regions.device}; only pixels belong on the device'
        )
    if at_once is None:
        at_once = pixels.device.type != 'cpu'
    parts = _passes(pixels, regions, size, there) if at_once else _one_by_one(pixels, regions, size)
    return torch.cat([pixels.new_empty(0, size, size, 3), *parts])


def _one_by_one(pixels: Tensor, regions: Tensor, size: int) -> Iterator[Tensor]:
    for start, width, *box in regions.tolist():
        rows = pixels[start : start + box[3] * width]  # down to the bottom of the box
        yield resize_region(rows.unflatten(0, (box[3], width)), tuple(box), size)[None]


def _passes(
    pixels: Tensor, regions: Tensor, size: int, there: Optional[Tensor]
) -> Iterator[Tensor]:
    """Resize in chunks of bounded memory; on a GPU with fused kernels, if they can be compiled."""
    sides = regions[:, 4:] - regions[:, 2:4]  # (N, 2) width, height
    on_device = (regions if there is None else there).to(pixels.device, non_blocking=True)
    for low, high in _chunks(sides[:, 1].tolist(), _CHUNK // size):
        width, height = sides[low:high].amax(dim=0).tolist()
        resize, taps = _resize, [_num_taps(side, size) for side in (width, height)]
        if pixels.is_cuda and max(taps) <= _FUSED_TAPS[-1] and can_compile():
            resize = compiled(_resize)
            taps = [min(count for count in _FUSED_TAPS if count >= max(taps))] * 2
        yield resize(pixels, on_device[low:high], size, height, *taps)


def _chunks(heights: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Split crops such that number times largest height is at most ``most``, or one crop."""
    low, tallest = 0, 0
    for high, height in enumerate(heights):
        tallest = max(tallest, height)
        if high > low and (high + 1 - low) * tallest > most:
            yield low, high
            low, tallest = high, height
    if heights:
        yield low, len(heights)


def _num_taps(length: int, size: int) -> int:
    """Number of input pixels that an output pixel can depend on: 3, 5, 7, and so on."""
    return 2 * math.ceil(max(length / size, 1)) + 1


def _resize(
    pixels: Tensor, regions: Tensor, size: int, tallest: int, x_taps: int, y_taps: int
) -> Tensor:
    """Resize regions that are at most ``tallest`` pixels high; (n, 6) -> (n, size, size, 3)."""
    start, stride, x1, y1, x2, y2 = regions.unbind(dim=1)  # (n,) each
    row = torch.arange(tallest, device=regions.device)
    row = row.minimum((y2 - y1 - 1)[:, None])  # (n, h); below a region, its last row again
    row = start[:, None] + (y1[:, None] + row) * stride[:, None] + x1[:, None]
    column, weights, bits = _taps(x2 - x1, size, x_taps)  # (n, size, K)
    narrow = _sum_of_taps(  # (n, h, size, 3)
        (pixels[row[:, :, None] + column[:, None, :, k]] for k in range(x_taps)),
        weights[:, None, :, None],
        bits,
    )
    narrow = narrow.flatten(0, 1).flatten(1)  # (n * h, size * 3)
    row, weights, bits = _taps(y2 - y1, size, y_taps)
    row = row + tallest * torch.arange(len(regions), device=row.device)[:, None, None]
    small = _sum_of_taps(  # (n, size, size * 3)
        (narrow[row[:, :, k]] for k in range(y_taps)), weights[:, :, None], bits
    )
    return small.unflatten(2, (size, 3))


def _taps(length: Tensor, size: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input pixels of each output pixel and their weights, along one axis.

    Args:
        length (Tensor): Input pixels of each crop, shape (n,), int64.
        size (int): Number of output pixels.
        count (int): K, number of input pixels that are listed for each output pixel.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Indices (n, size, K), int64; weights times 2 ** bits, same
        shape, int32; bits (n,), int32.
    """
    scale = (length.double() / size)[:, None]  # (n, 1)
    support = scale.clamp_min(1)
    center = (torch.arange(size, device=length.device) + 0.5) * scale  # (n, size)
    first = (center - support + 0.5).long().clamp_min(0)
    last = (center + support + 0.5).long().minimum(length[:, None])
    index = first[..., None] + torch.arange(count, device=length.device)  # (n, size, K)
    distance = (index - center[..., None] + 0.5) * (1 / support)[..., None]
    weights = (1 - distance.abs()).clamp_min(0) * (index < last[..., None])
    weights = weights / weights.sum(dim=2, keepdim=True)
    largest = weights.amax(dim=(1, 2))  # (n,)
    bits = ((2**_WEIGHT_BITS - 0.5) / largest).log2().floor().clamp_max(_MOST_BITS)
    weights = (weights * torch.exp2(bits)[:, None, None] + 0.5).int()
    return index.minimum(length[:, None, None] - 1), weights, bits.int()


def _sum_of_taps(taps: Iterable[Tensor], weights: Tensor, bits: Tensor) -> Tensor:
    """Weighted sum of taps in integers, so that the order of additions does not matter.

    Args:
        taps (iterable[Tensor]): K tensors of shape (n, ...), uint8.
        weights (Tensor): Weights times 2 ** bits, shape (n, ..., K); without K, it broadcasts to
            the shape of a tap; int32.
        bits (Tensor): Shape (n,), int32.

    Returns:
        Tensor: Rounded to uint8, shape of a tap.
    """
    bits = bits.view(-1, *[1] * (weights.ndim - 2))
    total: Tensor = (1 << bits) >> 1  # so that the shift rounds
    for k, tap in enumerate(taps):
        total = total.addcmul(weights[..., k], tap)
    return (total >> bits).clamp(max=255).to(torch.uint8)
