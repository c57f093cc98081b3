"""Correspondence: is the most similar patch of another image of the same class?

The question behind label propagation, retrieval and key-point matching, without key points:
each patch of an image is matched to its nearest patch (cosine) in one other image, and the
match is right where both show the same class. A protocol of our own, after semantic
correspondence on labelled parts as in Amir et al., https://arxiv.org/abs/2112.05814, with classes
of patches for parts; its numbers compare only with each other.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder, normalize_images
from cotap_mm.encoders.images import Size, resize_image
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.metrics import patch_labels
from cotap_mm.ops.nearest import nearest

PAIRS = ('consecutive', 'nearest')


@watch_classes()
def correspondence(
    encoder: Encoder,
    dataset: Any,
    num_classes: int,
    pairs: str = 'consecutive',
    step: int = 1,
    purity: float = 0.5,
    mutual: bool = False,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Match the patches of pairs of images, and score the matches by class.

    A patch takes part if one class has at least ``purity`` of its labelled pixels. Patches of
    the first image whose class the second image has too are matched to the most similar
    patch of the second that takes part. Pairs without a common class are left out. Nothing
    is drawn at random.

    Memory: ``batch_size`` pairs, and at most 4096 x 4096 similarities at a time; with
    ``pairs='nearest'`` also the CLS features of all images (4 C bytes each).

    Args:
        encoder (Encoder): The features to measure.
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``; 255 is ignored.
        num_classes (int): Number of classes.
        pairs (str): ``'consecutive'``: image i and i + ``step``; or ``'nearest'``: each image
            and the one with the most similar CLS, so that encoders are measured on
            different pairs. Defaults to 'consecutive'.
        step (int): Distance of consecutive pairs, for frames of a video that would be
            too much alike, >= 1. Defaults to 1.
        purity (float): Least share of one class, in (0, 1]. Defaults to 0.5.
        mutual (bool): Score only matches that are nearest in both directions; a share
            ``matched`` of the patches. Defaults to False.
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Pairs encoded at a time. Defaults to 16.

    Returns:
        dict: ``accuracy`` (mean over classes), ``patch_accuracy`` (over patches), ``chance`` and
        ``patch_chance`` (the same for matches drawn evenly from the second image),
        ``matched`` and ``classes`` (accuracy of each class, NaN where there is none), all in per
        cent; ``num_pairs`` and ``num_patches`` (int).

    Raises:
        ValueError: If an option is out of range, there are too few images, a label is no
            class, or no pair has a class in common.
    """
    if pairs not in PAIRS:
        raise ValueError(f'pairs must be one of {", ".join(PAIRS)}, got {pairs!r}')
    if not 0 < purity <= 1:
        raise ValueError(f'purity must be in (0, 1], got {purity}')
    if step < 1:
        raise ValueError(f'step must be at least 1, got {step}')
    if len(dataset) < 2 or (pairs == 'consecutive' and len(dataset) <= step):
        raise ValueError(
            f'there must be more than {step if pairs == "consecutive" else 1} '
            f'images to make pairs, got {len(dataset)}'
        )
    chosen = (
        _nearest_pairs(encoder, dataset, image_size, batch_size)
        if pairs == 'nearest'
        else [(i, i + step) for i in range(len(dataset) - step)]
    )
    # For each class: right matches, matches, patches, sum of chances. Last: pairs.
    sums = torch.zeros(4 * num_classes + 1, dtype=torch.double)
    for _, images, others in iter_batches(
        _Pairs(dataset, chosen, image_size), batch_size, image_size, 'correspondence'
    ):
        maps = encoder(images).patches
        second = _encode(encoder, [other['image'] for other in others])
        for a, b, other in zip(maps, second, others):
            classes, found = (
                _dominant(label, each, num_classes, purity)
                for label, each in zip(other['labels'], (a, b))
            )
            counts = match_patches(a, b, classes, found, num_classes, mutual)
            sums[:-1] += counts.flatten()
            sums[-1] += bool(counts[2].any())
    return _scores(all_reduce_sum(sums), num_classes)


def match_patches(
    first: Tensor,
    second: Tensor,
    first_classes: Tensor,
    second_classes: Tensor,
    num_classes: int,
    mutual: bool = False,
) -> Tensor:
    """Match the patches of two images.

    Args:
        first (Tensor): Features of the first image, shape (C, h, w).
        second (Tensor): Features of the second, shape (C, h', w').
        first_classes (Tensor): Class of each patch, -1 to leave it out, shape (h * w,).
        second_classes (Tensor): The same of the second, shape (h' * w',).
        num_classes (int): Number of classes K.
        mutual (bool): See :func:`correspondence`.

    Returns:
        Tensor: float64, shape (4, K). For each class of the first image: right matches, matches,
        patches, and the sum over matches of the chance to be right.
    """
    classes, others = (each[each >= 0].cpu() for each in (first_classes, second_classes))
    counts = torch.zeros(4, num_classes, dtype=torch.double)
    asked = torch.isin(classes, others).nonzero()[:, 0]
    if not len(asked):
        return counts
    rows, bank = (
        F.normalize(each.flatten(1).T[known.to(each.device) >= 0], dim=1)  # (n, C)
        for each, known in ((first, first_classes), (second, second_classes))
    )
    match = nearest(rows[asked.to(rows.device)], bank, 1)[1][:, 0].cpu()
    kinds = classes[asked]
    counts[2] = torch.bincount(kinds, minlength=num_classes)
    if mutual:
        back = nearest(bank[match.to(bank.device)], rows, 1)[1][:, 0].cpu() == asked
        kinds, match = kinds[back], match[back]
    share = torch.bincount(others, minlength=num_classes).double() / len(others)
    counts[0] = torch.bincount(kinds[others[match] == kinds], minlength=num_classes)
    counts[1] = torch.bincount(kinds, minlength=num_classes)
    counts[3] = counts[1] * share
    return counts


class _Pairs:
    """Pairs of images as a data set: the label of the first holds the second."""

    def __init__(
        self, dataset: Any, pairs: list[tuple[int, int]], image_size: Optional[Size]
    ) -> None:
        self.dataset, self.pairs, self.image_size = dataset, pairs, image_size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, second = (self.dataset[i] for i in self.pairs[index])
        return dict(
            image=first['image'],
            label=dict(
                image=resize_image(second['image'], self.image_size),
                labels=(first['label'], second['label']),
            ),
        )


def _encode(encoder: Encoder, images: list[Tensor]) -> list[Tensor]:
    """Patch map (C, h, w) of each image; at once where all have one size."""
    if len({image.shape for image in images}) == 1:
        return list(encoder(normalize_images(torch.stack(images))).patches)
    return [encoder(normalize_images(image[None])).patches[0] for image in images]


def _dominant(label: Tensor, patches: Tensor, num_classes: int, purity: float) -> Tensor:
    """Class of each patch, -1 where none has the share ``purity``, shape (h * w,)."""
    grid = (patches.shape[1], patches.shape[2])
    share, classes = patch_labels(label, grid, num_classes).max(dim=1)
    return classes.masked_fill(share < purity, -1)


@torch.no_grad()
def _nearest_pairs(
    encoder: Encoder, dataset: Any, image_size: Optional[Size], batch_size: int
) -> list[tuple[int, int]]:
    """Each image and the other one with the most similar CLS, the same on every rank."""
    side = encoder.patch_size
    rows = [encoder(torch.zeros(1, 3, side, side)).cls[:0]]  # there may be fewer images than ranks
    indices: list[int] = []
    for batch in iter_batches(dataset, batch_size, image_size, 'CLS features'):
        rows.append(encoder(batch.images).cls)
        indices += batch.indices
    order = gather_rows(torch.tensor(indices, dtype=torch.long)).argsort()
    features = F.normalize(gather_rows(torch.cat(rows)), dim=1)
    features = features[order.to(features.device)]
    found = nearest(features, features, 2)[1].tolist()
    return [(i, next(j for j in near if j != i)) for i, near in enumerate(found)]


def _scores(sums: Tensor, num_classes: int) -> dict[str, Any]:
    right, matched, patches, chance = sums[:-1].view(4, num_classes)
    if not patches.sum():
        raise ValueError(
            'no pair of images has a class in common that fills a patch; lower purity '
            'or enlarge the images, or choose other pairs'
        )
    if not matched.sum():
        raise ValueError(
            f'none of {int(patches.sum())} patches is matched in both directions; pass mutual=False'
        )
    accuracy = 100 * right / matched  # 0 / 0 is NaN: a class without match
    return dict(
        accuracy=accuracy.nanmean().item(),
        patch_accuracy=(100 * right.sum() / matched.sum()).item(),
        chance=(100 * chance / matched).nanmean().item(),
        patch_chance=(100 * chance.sum() / matched.sum()).item(),
        matched=(100 * matched.sum() / patches.sum()).item(),
        classes=accuracy.tolist(),
        num_pairs=int(sums[-1]),
        num_patches=int(patches.sum()),
    )
