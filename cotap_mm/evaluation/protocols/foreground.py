"""Foreground: compare thresholded attention maps with labeled objects.

Two kinds of maps are thresholded to masks and compared with labeled objects by their Jaccard
index (intersection over union): the attention of CLS in the last block, and the attention of
patches to each prototype of the object-aware filter. A mask is the smallest set of
patches that holds 60 % of the map, as in DINO, https://arxiv.org/abs/2104.14294
(Fig. 4), and in the foreground detection of CoTAP's training, https://arxiv.org/abs/2509.09429.

DINO's published results use the labels to choose the best head separately for each object
(https://github.com/facebookresearch/dino/issues/54): ``best_head_per_object`` here. The
headline makes no choice: it uses the mean over heads, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.metrics import pixel_counts
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments
from cotap_mm.ops import foreground_mask


@accept_separate_arguments
@watch_classes()
def foreground(
    encoder: Encoder,
    dataset: LabeledSet,
    foreground_classes: Optional[Sequence[int]] = None,
    mass: float = 0.6,
    sigma: float = 0.6,
) -> dict[str, Any]:
    """Compare attention masks with labeled objects.

    An object consists of all pixels of one foreground class in one image. Images without
    foreground are skipped. Scores that need a missing part of the encoder (CLS token, filter)
    are omitted from the result.

    Memory: one batch of images in the encoder with their attention, and (heads + M) patch masks of
    one image; independent of the size of the data set.

    Args:
        encoder (Encoder): Computes the attention.
        dataset (LabeledSet): Images with label maps.
        foreground_classes (sequence, optional): Indices of the classes that are objects.
            Defaults to None: all but class 0.
        mass (float): Share of a map that its mask holds, in (0, 1]. Defaults to 0.6.
        sigma (float): Blur of the maps before thresholding, in patches, as in training; use 0.01
            for no blur, as in DINO. Defaults to 0.6.

    Returns:
        dict: Scores in percent, and counts:

            - ``jaccard``: mask of the mean over heads against all foreground, mean over images;
            - ``jaccard_best_head``: ``jaccard`` of the single head ``best_head`` (int) that is best
              on this data set, chosen with its labels; ``jaccard_heads`` lists all heads;
            - ``best_head_per_object``: the best head for each single object, chosen with the
              labels; mean over the objects of an image, then over images (DINO's number);
            - ``upper_bound_prototypes``: the best prototype for each single object, chosen with
              the labels; an upper bound, not a segmentation. The smallest weight of a map is
              subtracted before thresholding, since all weights are near 1 / M;
            - ``jaccard_everything``: all pixels as foreground, for comparison;
            - ``num_images``, ``num_objects``: number of scored images and objects.

    Raises:
        ValueError: If the encoder has neither CLS attention nor prototypes, no image has
            foreground, a label is out of range, or ``foreground_classes`` are out of range.
    """
    classes = _check_classes(foreground_classes, dataset.num_classes)
    # Determined without an image, so that a rank without images can reduce too.
    probe = torch.zeros(1, 3, encoder.patch_size, encoder.patch_size)
    heads = _count(encoder.cls_attention, probe, 1)
    prototypes = _count(encoder.prototype_attention, probe, 4)
    if not heads and not prototypes:
        raise ValueError(
            f'{type(encoder).__name__} has neither the attention of a CLS token nor '
            'prototypes; foreground needs one of them'
        )
    # Sums: images, objects, everything, best head, best prototype, mean of heads, each head.
    sums = torch.zeros(6 + heads, dtype=torch.double)
    for _, images, labels in iter_batches(dataset, 'foreground'):
        by_cls = by_prototype = None
        if heads:
            attention = encoder.cls_attention(images).cpu()  # (B, heads, h, w)
            attention = torch.cat([attention.mean(dim=1, keepdim=True), attention], dim=1)
            by_cls = _threshold(attention, mass, sigma)  # (B, 1 + heads, h w)
        if prototypes:
            weights = encoder.prototype_attention(images).cpu().mean(dim=1).movedim(3, 1)
            lowest = weights.amin(dim=(2, 3), keepdim=True)  # (B, M, h, w) -> (B, M, 1, 1)
            by_prototype = _threshold(weights - lowest, mass, sigma)  # (B, M, h w)
        grid = encoder.grid(*images.shape[2:])
        for row, label in enumerate(labels):
            pixels = pixel_counts(label.cpu(), grid, dataset.num_classes).double()  # (h w, C)
            present = [kind for kind in classes if pixels[:, kind].any()]
            if not present:
                continue
            known = pixels.sum(dim=1)  # (h w,)
            union = pixels[:, classes].sum(dim=1)  # (h w,)
            objects = pixels[:, present]
            sums[:3] += torch.tensor([1, len(present), union.sum() / known.sum()])
            if by_cls is not None:
                sums[3] += jaccard(by_cls[row, 1:], objects, known).amax(dim=0).mean()
                sums[5:] += jaccard(by_cls[row], union[:, None], known)[:, 0]
            if by_prototype is not None:
                sums[4] += jaccard(by_prototype[row], objects, known).amax(dim=0).mean()
    return _scores(all_reduce_sum(sums), heads, prototypes, len(dataset), classes)


def jaccard(masks: Tensor, objects: Tensor, known: Tensor) -> Tensor:
    """Jaccard index of patch masks and pixel objects, counted in labeled pixels.

    Args:
        masks (Tensor): bool, shape (K, N).
        objects (Tensor): Number of pixels of each object in each patch, shape (N, O).
        known (Tensor): Number of labeled pixels in each patch, shape (N,).

    Returns:
        Tensor: 0 to 1, float64, shape (K, O).
    """
    common = masks.double() @ objects  # (K, O)
    either = (masks.double() @ known)[:, None] + objects.sum(dim=0) - common
    return common / either


def _check_classes(classes: Optional[Sequence[int]], num_classes: int) -> Sequence[int]:
    chosen = list(range(1, num_classes)) if classes is None else sorted(set(classes))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < num_classes:
        raise ValueError(f'foreground_classes must be some of 0..{num_classes - 1}, got {chosen}')
    return chosen


def _count(attend: Callable[[Tensor], Tensor], probe: Tensor, axis: int) -> int:
    """Length of an axis of the attention, 0 if the encoder does not provide it."""
    try:
        return attend(probe).shape[axis]
    except NotImplementedError:
        return 0


def _threshold(maps: Tensor, mass: float, sigma: float) -> Tensor:
    """Threshold maps (B, K, h, w) to masks, bool, (B, K, h * w)."""
    # foreground_mask averages over its second axis, so pass one map each.
    single = foreground_mask(maps.flatten(0, 1)[:, None], mass, sigma)  # (B K, h, w)
    return single.unflatten(0, maps.shape[:2]).flatten(2)


def _scores(
    sums: Tensor, heads: int, prototypes: int, num_images: int, classes: Sequence[int]
) -> dict[str, Any]:
    count = int(sums[0])
    if not count:
        raise ValueError(
            f'none of {num_images} images shows a foreground class '
            f'{list(classes)}; check foreground_classes and the values of the '
            'masks (255 is ignored)'
        )
    means = (100 * sums / count).tolist()
    scores: dict[str, Any] = {}
    if heads:
        single = means[6:]
        best = max(range(heads), key=single.__getitem__)
        scores = dict(
            jaccard=means[5],
            jaccard_best_head=single[best],
            best_head=best,
            jaccard_heads=single,
            best_head_per_object=means[3],
        )
    if prototypes:
        scores['upper_bound_prototypes'] = means[4]
    return dict(scores, jaccard_everything=means[2], num_images=count, num_objects=int(sums[1]))
