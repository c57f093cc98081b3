"""Video segmentation: propagate the first mask of each clip, and score as DAVIS-2017 does.

The propagation is described in ``propagation.py``, the scores in ``davis_scores.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size
from cotap_mm.evaluation.batches import rank_indices, with_progress
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.evaluation.data.video import Clip

from .davis_scores import boundary_measure, frame_statistics, region_similarity
from .propagation import propagate

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
    """Propagate the first masks of clips, and score the result as DAVIS-2017 does.

    J and F are averaged over the scored frames of an object, then over all objects of all
    clips; objects that are not in the first mask are not scored. In DAVIS the first and last
    frame are not scored, in other clips the first. For classes (CamVid) each class of a clip is
    an object. Pixels labeled 255 are excluded from both masks. Clips are sharded across ranks.

    Memory: features and soft labels of ``num_previous`` + 1 frames, ``batch_size`` frames in the
    encoder, and about four tables of max(2^24, (num_previous + 1) w^2 (2 radius + 1))
    affinities (float32, w patches per row), independent of clip length and frame height.

    Args:
        encoder (Encoder): Computes the features that are evaluated; the published protocol uses
            the patches after the last block and the final norm.
        dataset: Sequence of :class:`Clip`, see :class:`VideoClips`.
        short_side (int): Short side of the resized frame, in pixels. Defaults to 480.
        multiple (int): The long side is rounded down to a multiple of this. Defaults to 64.
        num_previous (int): Number of previous frames that provide labels, in addition to the
            first frame. Defaults to 7.
        radius (int, optional): Largest distance in rows and columns between a patch and the
            patches that provide its label, in patches; None for no limit. Defaults to 12.
        topk (int): Number of patches that provide the label of a patch. Defaults to 5.
        temperature (float): Temperature of the weights exp(cosine / temperature), > 0. Defaults
            to 0.1.
        image_size (int | tuple, optional): Resize frames to this square, or (height, width), in
            pixels, instead of using ``short_side``. Defaults to None.
        batch_size (int): Frames encoded at a time. Defaults to 4.

    Returns:
        dict: ``J&F`` (mean of J and F), ``J``, ``J_recall`` (share of frames with J > 0.5),
        ``J_decay`` (first quarter minus last quarter of the frames), ``F``, ``F_recall`` and
        ``F_decay``, all in percent; ``num_objects`` (int) and ``clips`` (name -> J&F, percent).

    Raises:
        ValueError: If an option is out of range, no frame can be scored because all lack a
            mask, or a mask differs in size from the first mask.
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
            short_side=short_side,
            multiple=multiple,
            num_previous=num_previous,
            radius=radius,
            topk=topk,
            temperature=temperature,
            image_size=image_size,
            batch_size=batch_size,
            value_range=getattr(clip, 'value_range', 'auto'),
        )
        scores, unlabeled = _score_clip(clip, masks)
        rows += [[index, *values] for values in scores]
        num_unlabeled += unlabeled
    table = gather_rows(torch.tensor(rows, dtype=torch.double).view(-1, 1 + len(SCORES)))
    table = table[table[:, 0].argsort(stable=True)]  # order of the data set for any number of ranks
    if not len(table):
        raise ValueError(
            f'none of {len(dataset)} clips has a mask to score, besides the mask of its first '
            'frame, with a pixel other than 255 (ignored); use propagate() to predict masks '
            'without scores'
        )
    means = dict(zip(SCORES, (100 * table[:, 1:].mean(dim=0)).tolist()))
    both = 100 * table[:, [1 + SCORES.index('J'), 1 + SCORES.index('F')]].mean(dim=1)
    clips = {
        dataset[int(index)].name: both[table[:, 0] == index].mean().item()
        for index in table[:, 0].unique()
    }
    result = {
        'J&F': (means['J'] + means['F']) / 2,
        **means,
        'num_objects': len(table),
        'clips': clips,
    }
    if int(all_reduce_sum(num_unlabeled)):
        result['warnings'] = [
            f'{int(num_unlabeled)} masks are 255 (ignored) everywhere; their frames are not scored'
        ]
        print_log(result['warnings'][0], logger='current', level=logging.WARNING)
    return result


def _score_clip(clip: Clip, masks: Iterator[Tensor]) -> tuple[list[list[float]], int]:
    """Values of ``SCORES`` (0 to 1) for each object, and the number of frames without labels."""
    objects = clip.objects()
    frames: list[list[tuple[float, float]]] = []
    unlabeled, scored = 0, set(clip.scored)
    for index, mask in enumerate(masks):
        if index not in scored:
            continue
        truth = clip.mask(index)
        if truth.shape != mask.shape:
            raise ValueError(
                f'{clip.masks[index]} must have the size of the first mask, '
                f'{tuple(mask.shape)}, got {tuple(truth.shape)}'
            )
        known = truth != IGNORE_LABEL
        if not known.any():  # two empty masks would score 1
            unlabeled += 1
            continue
        pairs = [(((mask == o) & known).numpy(), (truth == o).numpy()) for o in objects]
        frames.append([(region_similarity(*pair), boundary_measure(*pair)) for pair in pairs])
    if not frames:
        return [], unlabeled
    table = np.array(frames)  # (frames, objects, 2)
    return [
        [*frame_statistics(table[:, i, 0]), *frame_statistics(table[:, i, 1])]
        for i in range(len(objects))
    ], unlabeled
