"""Correspondence: check whether the most similar patch of another image has the same class.

This measures what label propagation, retrieval and keypoint matching rely on, without keypoints:
each patch of an image is matched to its nearest patch (cosine) in one other image, and the
match is correct if both have the same class. The protocol is specific to this project. It is
modeled on semantic correspondence of labeled parts, Amir et al.,
https://arxiv.org/abs/2112.05814, with classes of patches instead of parts; its numbers can only
be compared with each other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder, normalize_images
from cotap_mm.encoders.images import resize_image
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.metrics import patch_labels
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments
from cotap_mm.ops.nearest import nearest

PAIRS = ('consecutive', 'nearest')


@accept_separate_arguments
@watch_classes()
def correspondence(
    encoder: Encoder,
    dataset: LabeledSet,
    pairs: str = 'consecutive',
    step: int = 1,
    purity: float = 0.5,
    mutual: bool = False,
) -> dict[str, Any]:
    """Match the patches of pairs of images, and score the matches by class.

    A patch is used if one class has at least ``purity`` of its labeled pixels. Patches of the
    first image whose class occurs in the second image are matched to the most similar used
    patch of the second image. Pairs without a common class are skipped. Nothing is random.

    Memory: one batch of pairs, and at most 4096 x 4096 similarities at a time; with
    ``pairs='nearest'`` also the CLS features of all images (4 C bytes each).

    Args:
        encoder (Encoder): Computes the features that are evaluated.
        dataset (LabeledSet): Images with label maps; its batch size is a number of pairs.
        pairs (str): ``'consecutive'``: images i and i + ``step``; or ``'nearest'``: each image
            and the image with the most similar CLS feature, which depends on the encoder.
            Defaults to 'consecutive'.
        step (int): Distance of consecutive pairs, >= 1; increase it for video frames that are
            nearly identical. Defaults to 1.
        purity (float): Smallest share of one class, in (0, 1]. Defaults to 0.5.
        mutual (bool): Score only matches that are nearest in both directions; ``matched`` is
            their share of the patches. Defaults to False.

    Returns:
        dict: ``accuracy`` (mean over classes), ``patch_accuracy`` (mean over patches), ``chance``
        and ``patch_chance`` (expected values for random matches in the second image),
        ``matched`` and ``classes`` (accuracy of each class, NaN if it has no match), all in
        percent; ``num_pairs`` and ``num_patches`` (int).

    Raises:
        ValueError: If an option is out of range, there are too few images, a label is out of
            range, or no pair has a class in common.
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
        _nearest_pairs(encoder, dataset)
        if pairs == 'nearest'
        else [(i, i + step) for i in range(len(dataset) - step)]
    )
    num_classes = dataset.num_classes
    # For each class: correct matches, matches, patches, sum of chances. Last: pairs.
    sums = torch.zeros(4 * num_classes + 1, dtype=torch.double)
    image_pairs = dataset.with_dataset(_Pairs(dataset, chosen))
    for _, images, others in iter_batches(image_pairs, 'correspondence'):
        maps = encoder(images).patches
        second = _encode(encoder, [other['image'] for other in others])
        for a, b, other in zip(maps, second, others):
            classes, other_classes = (
                _dominant(label, patches, num_classes, purity)
                for label, patches in zip(other['labels'], (a, b))
            )
            counts = match_patches(a, b, classes, other_classes, num_classes, mutual)
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
        second (Tensor): Features of the second image, shape (C, h', w').
        first_classes (Tensor): Class of each patch of the first image, -1 to skip it, shape
            (h * w,).
        second_classes (Tensor): Class of each patch of the second image, -1 to skip it, shape
            (h' * w',).
        num_classes (int): Number of classes K.
        mutual (bool): See :func:`correspondence`.

    Returns:
        Tensor: float64, shape (4, K). For each class of the first image: number of correct
        matches, of matches and of patches, and the sum over matches of the chance to be correct.
    """
    classes, others = (kinds[kinds >= 0].cpu() for kinds in (first_classes, second_classes))
    counts = torch.zeros(4, num_classes, dtype=torch.double)
    matchable = torch.isin(classes, others).nonzero()[:, 0]
    if not len(matchable):
        return counts
    rows, bank = (
        F.normalize(features.flatten(1).T[known.to(features.device) >= 0], dim=1)  # (n, C)
        for features, known in ((first, first_classes), (second, second_classes))
    )
    match = nearest(rows[matchable.to(rows.device)], bank, 1)[1][:, 0].cpu()
    kinds = classes[matchable]
    counts[2] = torch.bincount(kinds, minlength=num_classes)
    if mutual:
        back = nearest(bank[match.to(bank.device)], rows, 1)[1][:, 0].cpu() == matchable
        kinds, match = kinds[back], match[back]
    share = torch.bincount(others, minlength=num_classes).double() / len(others)
    counts[0] = torch.bincount(kinds[others[match] == kinds], minlength=num_classes)
    counts[1] = torch.bincount(kinds, minlength=num_classes)
    counts[3] = counts[1] * share
    return counts


class _Pairs:
    """Data set of image pairs, in which the label of the first image contains the second."""

    def __init__(self, labeled: LabeledSet, pairs: list[tuple[int, int]]) -> None:
        self.labeled, self.pairs = labeled, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, second = (self.labeled.dataset[i] for i in self.pairs[index])
        return dict(
            image=first['image'],
            label=dict(
                image=resize_image(second['image'], self.labeled.image_size),
                labels=(first['label'], second['label']),
            ),
        )


def _encode(encoder: Encoder, images: list[Tensor]) -> list[Tensor]:
    """Patch map (C, h, w) of each image; encoded as one batch if all have the same size."""
    if len({image.shape for image in images}) == 1:
        return list(encoder(normalize_images(torch.stack(images))).patches)
    return [encoder(normalize_images(image[None])).patches[0] for image in images]


def _dominant(label: Tensor, patches: Tensor, num_classes: int, purity: float) -> Tensor:
    """Class of each patch, -1 if no class has the share ``purity``, shape (h * w,)."""
    grid = (patches.shape[1], patches.shape[2])
    share, classes = patch_labels(label, grid, num_classes).max(dim=1)
    return classes.masked_fill(share < purity, -1)


@torch.no_grad()
def _nearest_pairs(encoder: Encoder, dataset: LabeledSet) -> list[tuple[int, int]]:
    """Pair each image with the most similar other image by CLS; identical on every rank."""
    side = encoder.patch_size
    rows = [encoder(torch.zeros(1, 3, side, side)).cls[:0]]  # there may be fewer images than ranks
    indices: list[int] = []
    for batch in iter_batches(dataset, 'CLS features'):
        rows.append(encoder(batch.images).cls)
        indices += batch.indices
    order = gather_rows(torch.tensor(indices, dtype=torch.long)).argsort()
    features = F.normalize(gather_rows(torch.cat(rows)), dim=1)
    features = features[order.to(features.device)]
    neighbors = nearest(features, features, 2)[1].tolist()
    return [(i, next(j for j in near if j != i)) for i, near in enumerate(neighbors)]


def _scores(sums: Tensor, num_classes: int) -> dict[str, Any]:
    correct, matched, patches, chance = sums[:-1].view(4, num_classes)
    if not patches.sum():
        raise ValueError(
            'no pair of images has a class in common that fills a patch; lower purity '
            'or enlarge the images, or choose other pairs'
        )
    if not matched.sum():
        raise ValueError(
            f'none of {int(patches.sum())} patches is matched in both directions; pass mutual=False'
        )
    accuracy = 100 * correct / matched  # 0 / 0 is NaN: a class without matches
    return dict(
        accuracy=accuracy.nanmean().item(),
        patch_accuracy=(100 * correct.sum() / matched.sum()).item(),
        chance=(100 * chance / matched).nanmean().item(),
        patch_chance=(100 * chance.sum() / matched.sum()).item(),
        matched=(100 * matched.sum() / patches.sum()).item(),
        classes=accuracy.tolist(),
        num_pairs=int(sums[-1]),
        num_patches=int(patches.sum()),
    )
