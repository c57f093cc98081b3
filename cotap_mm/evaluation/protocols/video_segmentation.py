"""Video label propagation: features carry the mask of the first frame through a clip.

Nothing is trained. Each patch takes the soft labels of its most similar patches nearby in the
first and the 7 previous frames. Source: the protocol of DINO, https://arxiv.org/abs/2104.14294
(its eval_video_segmentation.py), after Jabri et al., https://arxiv.org/abs/2006.14613; scores
of DAVIS: Perazzi et al. 2016 (region similarity J, contour accuracy F), DAVIS-2017,
https://arxiv.org/abs/1704.00675.

Differences from DINO's script: it divides red by 0.228 instead of ImageNet's 0.229, and
resizes frames with OpenCV; here frames are normalised as everywhere, and resized with
antialias. A soft map that is constant, which the script divides by 0, stays as it is. The
script builds the whole affinity, which is out of memory on large frames; here it is made
for some rows of patches at a time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from scipy import ndimage
from torch import Tensor

from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder, normalize_images
from cotap_mm.encoders.images import Picture, Size, resize_image, to_pixels
from cotap_mm.evaluation.batches import rank_indices, with_progress
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.evaluation.data.video import Clip, with_one_range

_ROUNDING = 1e-5  # of shares of labels, which add up to 1, in float32
# Entries of the affinity that are computed at a time: 64 MB of float32.
AFFINITY_SIZE = 2**24
BOUNDARY_TOLERANCE = 0.008  # of the diagonal of the frame
SCORES = ('J', 'J_recall', 'J_decay', 'F', 'F_recall', 'F_decay')


def label_propagation(
    encoder: Encoder,
    dataset: Any,
    short_side: int = 480,
    multiple: int = 64,
    num_previous: int = 7,
    radius: Optional[int] = 12,
    topk: int = 5,
    temperature: float = 0.1,
    image_size: Optional[Size] = None,
    batch_size: int = 4,
) -> dict[str, Any]:
    """Propagate the first masks of clips and score the result as DAVIS-2017 does.

    J and F are averaged over the scored frames of an object, then over all objects of all
    clips; what is not in the first mask is not scored. Of DAVIS the first and last frame are
    not scored, of other clips the first. For classes (CamVid) each class of a clip is an object.
    Pixels labelled 255 are left out of both masks. Ranks share out whole clips.

    Memory: features and soft labels of ``num_previous`` + 1 frames, ``batch_size`` frames in the
    encoder, and about four tables of max(2^24, (num_previous + 1) w^2 (2 radius + 1))
    affinities (float32, w patches a row), however long the clip and high the frame.

    Args:
        encoder (Encoder): The features to measure; the published protocol takes the patches
            after the last block and the final norm.
        dataset: Sequence of :class:`Clip`, see :class:`VideoClips`.
        short_side (int): Of the resized frame, in pixels. Defaults to 480.
        multiple (int): The long side is rounded down to a multiple of this. Defaults to 64.
        num_previous (int): Frames beside the first that labels come from. Defaults to 7.
        radius (int, optional): Rows and columns that a label may move, in patches; None for
            any. Defaults to 12.
        topk (int): Patches that a patch takes labels from. Defaults to 5.
        temperature (float): Of exp(cosine / temperature), > 0. Defaults to 0.1.
        image_size (int | tuple, optional): Side of a square, or (height, width), to resize
            frames to instead of ``short_side``. Defaults to None.
        batch_size (int): Frames encoded at a time. Defaults to 4.

    Returns:
        dict: ``J&F`` (mean of J and F), ``J``, ``J_recall`` (share of frames with J > 0.5),
        ``J_decay`` (first quarter minus last quarter of the frames), the same of F, all
        in per cent; ``num_objects`` (int) and ``clips`` (name -> J&F, per cent).

    Raises:
        ValueError: If an option is out of range, no frame has a mask to be scored by, or a mask
            is of another size than the first.
    """
    rows: list[list[float]] = []
    num_unlabeled = torch.zeros(1, dtype=torch.long)
    for index in with_progress(rank_indices(len(dataset)), 'clips'):
        clip = dataset[index]
        if not len(clip.scored):
            continue
        masks = propagate(
            encoder,
            clip.frames,
            clip.mask(0),
            short_side,
            multiple,
            num_previous,
            radius,
            topk,
            temperature,
            image_size,
            batch_size,
            getattr(clip, 'value_range', 'auto'),
        )
        scores, unlabeled = _score_clip(clip, masks)
        rows += [[index, *each] for each in scores]
        num_unlabeled += unlabeled
    table = gather_rows(torch.tensor(rows, dtype=torch.double).view(-1, 1 + len(SCORES)))
    table = table[table[:, 0].argsort(stable=True)]  # as in the data set, on any number of ranks
    if not len(table):
        raise ValueError(
            f'none of {len(dataset)} clips has a mask besides that of its first '
            'frame to be scored by (with a pixel that is not 255, ignored); '
            'propagate() makes masks without scores'
        )
    means = dict(zip(SCORES, (100 * table[:, 1:].mean(dim=0)).tolist()))
    both = 100 * table[:, [1 + SCORES.index('J'), 1 + SCORES.index('F')]].mean(dim=1)
    clips = {
        dataset[int(index)].name: both[table[:, 0] == index].mean().item()
        for index in table[:, 0].unique()
    }
    found = {
        'J&F': (means['J'] + means['F']) / 2,
        **means,
        'num_objects': len(table),
        'clips': clips,
    }
    if int(all_reduce_sum(num_unlabeled)):
        found['warnings'] = [
            f'{int(num_unlabeled)} masks are 255 (ignored) everywhere; their frames are not scored'
        ]
        print_log(found['warnings'][0], logger='current', level=logging.WARNING)
    return found


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
    """Carry the mask of the first frame through a clip; needs no other mask.

    ::

        masks = list(propagate(encoder, sorted(Path('frames').glob('*.jpg')), first_mask))

    Args:
        encoder (Encoder): The features.
        frames (sequence): Paths, PIL images, arrays (H, W, 3) or tensors (3, H, W), of one size.
        first_mask (Tensor | ndarray): Objects or classes of the first frame, 255 for unknown,
            shape (H, W). 0 competes with the objects as one of them.
        short_side, multiple, num_previous, radius, topk, temperature, image_size, batch_size:
            As in :func:`label_propagation`.
        value_range: Of a list of files, see :class:`~cotap_mm.datasets.ImageList`.

    Yields:
        Tensor: The mask of each frame, the first one's unchanged, int64, shape (H, W), on
        the CPU.

    Raises:
        ValueError: If an option is out of range, there is no frame, or the mask is not 2-D or
            all unknown.
    """
    least = dict(
        short_side=(short_side, 1),
        multiple=(multiple, 1),
        topk=(topk, 1),
        num_previous=(num_previous, 0),
        radius=(0 if radius is None else radius, 0),
        batch_size=(batch_size, 1),
    )
    for name, (value, lowest) in least.items():
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
    return _propagate(
        encoder, frames, mask, image_size, num_previous, radius, topk, temperature, batch_size
    )


@torch.no_grad()
def spread(
    query: Tensor,
    context: Tensor,
    labels: Tensor,
    radius: Optional[int] = 12,
    topk: int = 5,
    temperature: float = 0.1,
) -> Tensor:
    """Soft labels of a frame from those of other frames.

    Args:
        query (Tensor): L2-normalised features of the frame, shape (C, h, w).
        context (Tensor): The same of T frames, shape (T, C, h, w).
        labels (Tensor): Their soft labels of K objects, shape (T, K, h, w).
        radius (int, optional): See :func:`label_propagation`.
        topk (int): Weights of patches less similar than the k-th are 0; as many as tie with
            it stay.
        temperature (float): Of the weights exp(cosine / temperature), whose sum is made 1.

    Returns:
        Tensor: Shape (K, h, w).
    """
    height, width = query.shape[1:]
    reach = max(height, width) if radius is None else radius
    # The largest number n of rows with n (n + 2 reach) w^2 T <= AFFINITY_SIZE.
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


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two masks, shape (H, W), bool; 1 if both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def boundary_measure(found: np.ndarray, truth: np.ndarray) -> float:
    """F: harmonic mean of the share of each boundary that is near the other.

    Near is within ceil(0.008 x diagonal) pixels. Two masks without boundary agree (1).

    Args:
        found (ndarray): Mask, bool, shape (H, W).
        truth (ndarray): The other mask.

    Returns:
        float: 0 to 1.
    """
    tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape))
    edges = _boundary(found), _boundary(truth)
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    precision, recall = (
        (ndimage.distance_transform_edt(~other)[edge] <= tolerance).mean()
        for edge, other in (edges, edges[::-1])
    )
    both = precision + recall
    return float(2 * precision * recall / both) if both else 0.0


def frame_size(height: int, width: int, short_side: int, multiple: int) -> tuple[int, int]:
    """(height, width) of the resized frame, from its own."""
    long = max(height, width) * short_side // min(height, width)
    long = max(long // multiple * multiple, multiple)
    return (long, short_side) if height > width else (short_side, long)


def _features(
    encoder: Encoder, frames: Sequence[Picture], size: Size, batch_size: int
) -> Iterator[Tensor]:
    """L2-normalised patch map (C, h, w) of each frame, made batch by batch."""
    for start in range(0, len(frames), batch_size):
        part = range(start, min(start + batch_size, len(frames)))
        images = torch.stack([resize_image(to_pixels(frames[i]), size) for i in part])
        yield from F.normalize(encoder(normalize_images(images)).patches, dim=1)


@torch.no_grad()
def _propagate(
    encoder: Encoder,
    frames: Sequence[Picture],
    mask: Tensor,
    size: Size,
    num_previous: int,
    radius: Optional[int],
    topk: int,
    temperature: float,
    batch_size: int,
) -> Iterator[Tensor]:
    """As :func:`propagate`, for checked options."""
    values = torch.tensor(sorted({0, *mask.unique().tolist()} - {IGNORE_LABEL}))
    features = _features(encoder, frames, size, batch_size)
    first = next(features)
    grid = first.shape[1:]
    small = _nearest(mask, grid).to(first.device)
    # A patch of unknown label is 0 for all objects: it has no say.
    start = (small == values.to(first.device)[:, None, None]).to(first.dtype)  # (K, h, w)
    yield mask
    previous: deque[tuple[Tensor, Tensor]] = deque(maxlen=num_previous)
    for query in features:
        seen = [(first, start), *previous]
        soft = spread(
            query,
            torch.stack([each for each, _ in seen]),
            torch.stack([labels for _, labels in seen]),
            radius,
            topk,
            temperature,
        )
        previous.append((query, soft))
        pixels = [side * encoder.patch_size for side in grid]
        large = F.interpolate(soft[None], pixels, mode='bilinear', align_corners=False)[0]
        low, high = large.flatten(1).aminmax(dim=1)
        low, span = low[:, None, None], (high - low)[:, None, None]
        # The same everywhere but for rounding: stretched, noise would look like an object.
        large = torch.where(span > _ROUNDING, (large - low) / span.clamp_min(_ROUNDING), large)
        yield _nearest(values[large.argmax(dim=0).cpu()], mask.shape)


def _nearest(mask: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(mask[None, None].double(), tuple(size), mode='nearest-exact')[0, 0].long()


def _score_clip(clip: Clip, masks: Iterator[Tensor]) -> tuple[list[list[float]], int]:
    """For each object the values of ``SCORES``, 0 to 1; number of frames without any label."""
    objects = clip.objects()
    frames: list[list[tuple[float, float]]] = []
    unlabeled, scored = 0, set(clip.scored)
    for index, mask in enumerate(masks):
        if index not in scored:
            continue
        truth = clip.mask(index)
        if truth.shape != mask.shape:
            raise ValueError(
                f'{clip.masks[index]} must be as large as the first mask, '
                f'{tuple(mask.shape)}, got {tuple(truth.shape)}'
            )
        known = truth != IGNORE_LABEL
        if not known.any():  # two empty masks would agree
            unlabeled += 1
            continue
        pairs = [(((mask == each) & known).numpy(), (truth == each).numpy()) for each in objects]
        frames.append([(region_similarity(*pair), boundary_measure(*pair)) for pair in pairs])
    if not frames:
        return [], unlabeled
    table = np.array(frames)  # (frames, objects, 2)
    return [
        [*_statistics(table[:, i, 0]), *_statistics(table[:, i, 1])] for i in range(len(objects))
    ], unlabeled


def _statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall and decay of the frames of one object, as DAVIS defines them."""
    edges = np.rint(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    decay = values[: edges[1] + 1].mean() - values[edges[3] :].mean()
    return values.mean(), (values > 0.5).mean(), decay


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the pixel to the right, below, or right below."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])
