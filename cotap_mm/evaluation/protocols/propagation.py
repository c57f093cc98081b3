"""Propagate the mask of the first frame through a clip by the similarity of patch features.

Nothing is trained. Each patch takes the soft labels of its most similar nearby patches in the
first and the 7 previous frames. Source: the protocol of DINO, https://arxiv.org/abs/2104.14294
(its eval_video_segmentation.py), after Jabri et al., https://arxiv.org/abs/2006.14613.

Differences from DINO's script: it divides red by 0.228 instead of ImageNet's 0.229, and
resizes frames with OpenCV; here frames are normalized with ImageNet's values and resized with
antialiasing. The script divides a constant soft map by 0; here a constant map is unchanged. The
script builds the whole affinity, which runs out of memory on large frames; here it is computed
for a few rows of patches at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.encoders.encoder import Encoder, normalize_images
from cotap_mm.encoders.images import Picture, Size, resize_image, to_pixels
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.evaluation.data.video import with_one_range
from cotap_mm.evaluation.metrics import best_class

_ROUNDING = 1e-5  # rounding error of label shares, which sum to 1, in float32
# Number of affinities that are computed at a time: 64 MB of float32.
AFFINITY_SIZE = 2**24


class _Sources(NamedTuple):
    """Frames and patches that labels come from; see :func:`propagate`."""

    num_previous: int
    radius: Optional[int]
    topk: int
    temperature: float


def propagate(
    encoder: Encoder,
    frames: Sequence[Picture],
    first_mask: Union[Tensor, np.ndarray],
    short_side: int = 480,
    multiple: int = 64,
    num_previous: int = 7,
    radius: Optional[int] = 12,
    topk: int = 5,
    temperature: float = 0.1,
    image_size: Optional[Size] = None,
    batch_size: int = 4,
    value_range: Option = 'auto',
) -> Iterator[Tensor]:
    """Propagate the mask of the first frame through a clip; no other mask is needed.

    ::

        masks = list(propagate(encoder, sorted(Path('frames').glob('*.jpg')), first_mask))

    Args:
        encoder (Encoder): Computes the features.
        frames (sequence): Paths, PIL images, arrays (H, W, 3) or tensors (3, H, W), all of one
            size.
        first_mask (Tensor | ndarray): Objects or classes of the first frame, 255 for unknown,
            shape (H, W). 0 is treated like an object.
        short_side (int): Shorter side that frames are resized to, in pixels.
        multiple (int): Sides are rounded to multiples of this number of pixels.
        num_previous (int): Number of previous frames that labels come from, besides the first.
        radius (int, optional): Distance of patches that labels come from, in patches; None for
            any.
        topk (int): Number of most similar patches that labels come from.
        temperature (float): Softmax temperature of the similarities, > 0.
        image_size (int | tuple, optional): Size (height, width) of the frames, instead of
            ``short_side``.
        batch_size (int): Frames per forward pass.
        value_range: Range of values in a list of files, see
            :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``.

    Yields:
        Tensor: The mask of each frame, starting with the unchanged first mask, int64, shape
        (H, W), on the CPU.

    Raises:
        ValueError: If an option is out of range, there is no frame, or the mask is not 2-D or
            entirely unknown.
    """
    limits = dict(
        short_side=(short_side, 1),
        multiple=(multiple, 1),
        topk=(topk, 1),
        num_previous=(num_previous, 0),
        radius=(0 if radius is None else radius, 0),
        batch_size=(batch_size, 1),
    )
    for name, (value, lowest) in limits.items():
        if value < lowest:
            raise ValueError(f'{name} must be at least {lowest}, got {value}')
    if not temperature > 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    if not len(frames):
        raise ValueError('there must be at least one frame, got none')
    mask = torch.as_tensor(first_mask).long().cpu()
    if mask.ndim != 2 or bool((mask == IGNORE_LABEL).all()):
        raise ValueError(
            f'first_mask must have shape (H, W) and values besides 255, got {tuple(mask.shape)}'
        )
    frames = with_one_range(frames, value_range)
    if image_size is None:
        height, width = to_pixels(frames[0]).shape[1:]
        image_size = frame_size(height, width, short_side, multiple)
    features = _features(encoder, frames, image_size, batch_size)
    sources = _Sources(num_previous, radius, topk, temperature)
    return _propagate(features, mask, encoder.patch_size, sources)


@torch.no_grad()
def aggregate_labels(
    query: Tensor,
    context: Tensor,
    labels: Tensor,
    radius: Optional[int] = 12,
    topk: int = 5,
    temperature: float = 0.1,
) -> Tensor:
    """Compute the soft labels of a frame from the soft labels of other frames.

    Args:
        query (Tensor): L2-normalized features of the frame, shape (C, h, w).
        context (Tensor): L2-normalized features of T frames, shape (T, C, h, w).
        labels (Tensor): Soft labels of the T frames for K objects, shape (T, K, h, w).
        radius (int, optional): See :func:`label_propagation`.
        topk (int): Weights of patches that are less similar than the k-th are 0; ties are
            kept.
        temperature (float): Temperature of the weights exp(cosine / temperature), which are
            normalized to sum 1.

    Returns:
        Tensor: Shape (K, h, w).
    """
    height, width = query.shape[1:]
    reach = max(height, width) if radius is None else radius
    # Largest number n of rows with n (n + 2 reach) w^2 T <= AFFINITY_SIZE.
    fitting = AFFINITY_SIZE / (len(context) * width**2)
    step = max(1, int(math.sqrt(reach**2 + fitting) - reach))
    columns = torch.arange(width, device=query.device)
    near_columns = (columns[:, None] - columns).abs() <= reach  # (w, w)
    parts = []
    for top in range(0, height, step):
        bottom = min(top + step, height)
        first, last = max(top - reach, 0), min(bottom + reach, height)
        rows = torch.arange(first, last, device=query.device)
        near_rows = (torch.arange(top, bottom, device=query.device)[:, None] - rows).abs() <= reach
        near = near_rows[:, None, :, None] & near_columns[None, :, None, :]
        cosine = torch.einsum(
            'cq,tcn->qtn', query[:, top:bottom].flatten(1), context[:, :, first:last].flatten(2)
        )  # (q w, T, n w)
        near = near.flatten(2).flatten(0, 1)[:, None]  # (q, w, n, w) -> (q w, 1, n w)
        cosine = cosine.masked_fill_(~near, -math.inf).flatten(1)
        kth = cosine.topk(min(topk, cosine.shape[1]), dim=1).values[:, -1:]
        weights = F.softmax(cosine.masked_fill_(cosine < kth, -math.inf) / temperature, dim=1)
        values = labels[:, :, first:last].transpose(0, 1).flatten(1)  # (T, K, n, w) -> (K, T n w)
        parts.append((values @ weights.T).unflatten(1, (bottom - top, width)))
    return torch.cat(parts, dim=1)


def frame_size(height: int, width: int, short_side: int, multiple: int) -> tuple[int, int]:
    """Compute (height, width) of the resized frame from the original size."""
    long = max(height, width) * short_side // min(height, width)
    long = max(long // multiple * multiple, multiple)
    return (long, short_side) if height > width else (short_side, long)


def _features(
    encoder: Encoder, frames: Sequence[Picture], size: Size, batch_size: int
) -> Iterator[Tensor]:
    """L2-normalized patch map (C, h, w) of each frame, computed in batches."""
    for start in range(0, len(frames), batch_size):
        part = range(start, min(start + batch_size, len(frames)))
        images = torch.stack([resize_image(to_pixels(frames[i]), size) for i in part])
        yield from F.normalize(encoder(normalize_images(images)).patches, dim=1)


@torch.no_grad()
def _propagate(
    features: Iterator[Tensor], mask: Tensor, patch_size: int, sources: _Sources
) -> Iterator[Tensor]:
    """Implement :func:`propagate` for the features of :func:`_features` and checked options."""
    values = torch.tensor(sorted({0, *mask.unique().tolist()} - {IGNORE_LABEL}))
    first = next(features)
    grid = first.shape[1:]
    small = _nearest(mask, grid).to(first.device)
    # A patch of unknown label is 0 for all objects, so it has no influence.
    start = (small == values.to(first.device)[:, None, None]).to(first.dtype)  # (K, h, w)
    yield mask
    previous: deque[tuple[Tensor, Tensor]] = deque(maxlen=sources.num_previous)
    for query in features:
        seen = [(first, start), *previous]
        soft = aggregate_labels(
            query,
            torch.stack([frame for frame, _ in seen]),
            torch.stack([labels for _, labels in seen]),
            sources.radius,
            sources.topk,
            sources.temperature,
        )
        previous.append((query, soft))
        pixels = [side * patch_size for side in grid]
        large = F.interpolate(soft[None], pixels, mode='bilinear', align_corners=False)[0]
        low, high = large.flatten(1).aminmax(dim=1)
        low, span = low[:, None, None], (high - low)[:, None, None]
        # Do not stretch a map that is constant up to rounding: noise would look like an object.
        large = torch.where(span > _ROUNDING, (large - low) / span.clamp_min(_ROUNDING), large)
        yield _nearest(values[best_class(large).cpu()], mask.shape)


def _nearest(mask: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(mask[None, None].double(), tuple(size), mode='nearest-exact')[0, 0].long()
