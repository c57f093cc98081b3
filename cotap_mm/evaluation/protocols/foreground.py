"""Foreground: do attention maps outline objects, without any label?

Two kinds of maps are cut to masks and compared with labelled objects by their Jaccard index
(intersection over union): the attention of CLS in the last block, and the attention of
patches to each prototype of the object-aware filter. A mask is the smallest set of
patches that holds 60 % of the map, as DINO cuts attention, https://arxiv.org/abs/2104.14294
(Fig. 4), and as CoTAP finds foreground in training, https://arxiv.org/abs/2509.09429.

DINO's published figures choose the best head with the labels, for each object anew
(https://github.com/facebookresearch/dino/issues/54): ``best_head_per_object`` here. The
headline chooses nothing: it is the mean over heads, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.ops import foreground_mask


@watch_classes()
def foreground(
    encoder: Encoder,
    dataset: Any,
    num_classes: int,
    foreground_classes: Optional[Sequence[int]] = None,
    mass: float = 0.6,
    sigma: float = 0.6,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Compare masks of attention with labelled objects.

    An object is all pixels of one foreground class in one image. Images without foreground are
    left out. What the encoder does not have (no CLS token, no filter) is left out of the
    result.

    Memory: ``batch_size`` images in the encoder with their attention, (heads + M) masks of
    patches of one image; nothing grows with the data set.

    Args:
        encoder (Encoder): Gives the attention.
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``; 255 is ignored.
        num_classes (int): Number of classes.
        foreground_classes (sequence, optional): Classes that are objects. Defaults to None:
            all but class 0.
        mass (float): Share of a map that its mask holds, in (0, 1]. Defaults to 0.6.
        sigma (float): Blur of a map before, in patches, as in training; DINO has none (0.01
            changes nothing). Defaults to 0.6.
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.

    Returns:
        dict: In per cent, except numbers of things:

        - ``jaccard``: mean over images, mask of the mean over heads against all foreground;
        - ``jaccard_best_head``: the same of the one head ``best_head`` (int) that is best on
          this data set, chosen with its labels; ``jaccard_heads`` lists all;
        - ``best_head_per_object``: against single objects, the best head chosen for each with
          the labels; mean over the objects of an image, then over images (DINO's figure);
        - ``upper_bound_prototypes``: the same with the best prototype for each object,
          which is a bound, no segmentation. A map's smallest weight is subtracted before it
          is cut, as all weights are near 1 / M;
        - ``jaccard_everything``: all pixels called foreground, to compare with;
        - ``num_images``, ``num_objects``: how many were scored.

    Raises:
        ValueError: If the encoder has neither CLS attention nor prototypes, no image has
            foreground, a label is no class, or ``foreground_classes`` are not among them.
    """
    classes = _check_classes(foreground_classes, num_classes)
    # Known before the first image, so that a rank without images can add up too.
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
    for _, images, labels in iter_batches(dataset, batch_size, image_size, 'foreground'):
        by_cls = by_prototype = None
        if heads:
            attention = encoder.cls_attention(images).cpu()  # (B, heads, h, w)
            attention = torch.cat([attention.mean(dim=1, keepdim=True), attention], dim=1)
            by_cls = _cut(attention, mass, sigma)  # (B, 1 + heads, h w)
        if prototypes:
            weights = encoder.prototype_attention(images).cpu().mean(dim=1).movedim(3, 1)
            lowest = weights.amin(dim=(2, 3), keepdim=True)  # (B, M, h, w) -> (B, M, 1, 1)
            by_prototype = _cut(weights - lowest, mass, sigma)  # (B, M, h w)
        grid = encoder.grid(*images.shape[2:])
        for place, label in enumerate(labels):
            pixels = pixel_counts(label, grid, num_classes)  # (h w, C)
            present = [kind for kind in classes if pixels[:, kind].any()]
            if not present:
                continue
            known = pixels.sum(dim=1)  # (h w,)
            union = pixels[:, classes].sum(dim=1)  # (h w,)
            objects = pixels[:, present]
            sums[:3] += torch.tensor([1, len(present), union.sum() / known.sum()])
            if by_cls is not None:
                sums[3] += jaccard(by_cls[place, 1:], objects, known).amax(dim=0).mean()
                sums[5:] += jaccard(by_cls[place], union[:, None], known)[:, 0]
            if by_prototype is not None:
                sums[4] += jaccard(by_prototype[place], objects, known).amax(dim=0).mean()
    return _scores(all_reduce_sum(sums), heads, prototypes, len(dataset), classes)


def pixel_counts(label: Tensor, grid: Sequence[int], num_classes: int) -> Tensor:
    """Pixels of each class in each patch; every pixel belongs to one patch.

    Args:
        label (Tensor): Class indices, 255 ignored, shape (H, W).
        grid (sequence): Number of patches (h, w).
        num_classes (int): Number of classes C.

    Returns:
        Tensor: float64, shape (h * w, C).

    Raises:
        ValueError: If a label is neither a class nor 255.
    """
    rows, columns = (torch.arange(side) * cells // side for side, cells in zip(label.shape, grid))
    patch = (rows[:, None] * grid[1] + columns).flatten()
    flat = label.flatten().long().cpu()
    patch, flat = patch[flat != IGNORE_LABEL], flat[flat != IGNORE_LABEL]
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < num_classes:
        raise ValueError(
            f'labels must be 0..{num_classes - 1} or {IGNORE_LABEL} (ignored), got '
            f'{int(flat.min())}..{int(flat.max())}; check num_classes'
        )
    counts = torch.bincount(patch * num_classes + flat, minlength=grid[0] * grid[1] * num_classes)
    return counts.view(-1, num_classes).double()


def jaccard(masks: Tensor, objects: Tensor, known: Tensor) -> Tensor:
    """Jaccard index of masks of patches and objects of pixels, counted in labelled pixels.

    Args:
        masks (Tensor): bool, shape (K, N).
        objects (Tensor): Pixels of each object in each patch, shape (N, O).
        known (Tensor): Labelled pixels in each patch, shape (N,).

    Returns:
        Tensor: 0 to 1, float64, shape (K, O).
    """
    common = masks.double() @ objects  # (K, O)
    either = (masks.double() @ known)[:, None] + objects.sum(dim=0) - common
    return common / either


def _check_classes(classes: Optional[Sequence[int]], num_classes: int) -> Sequence[int]:
    found = list(range(1, num_classes)) if classes is None else sorted(set(classes))
    if not found or not 0 <= found[0] <= found[-1] < num_classes:
        raise ValueError(f'foreground_classes must be some of 0..{num_classes - 1}, got {found}')
    return found


def _count(attend: Callable[[Tensor], Tensor], probe: Tensor, axis: int) -> int:
    """Length of an axis of what the encoder attends with, 0 if it cannot."""
    try:
        return attend(probe).shape[axis]
    except NotImplementedError:
        return 0


def _cut(maps: Tensor, mass: float, sigma: float) -> Tensor:
    """Maps (B, K, h, w) -> masks, bool, (B, K, h * w)."""
    # foreground_mask takes the mean over its second axis: one map each.
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
    found: dict[str, Any] = {}
    if heads:
        single = means[6:]
        best = max(range(heads), key=single.__getitem__)
        found = dict(
            jaccard=means[5],
            jaccard_best_head=single[best],
            best_head=best,
            jaccard_heads=single,
            best_head_per_object=means[3],
        )
    if prototypes:
        found['upper_bound_prototypes'] = means[4]
    return dict(found, jaccard_everything=means[2], num_images=count, num_objects=int(sums[1]))
