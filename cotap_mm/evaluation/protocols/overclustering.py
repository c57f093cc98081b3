"""Overclustering: cluster patch features without labels, then assign a class to each cluster.

k-means clusters the patch features of the validation images; the labels are only used to assign
classes to clusters. Source: Leopart, https://arxiv.org/abs/2204.13101: features standardized per
channel, PCA to 50 dimensions, K = 500 clusters, each assigned to its most frequent class; for
K = number of classes a one-to-one assignment (Hungarian). Cluster maps and masks are resized to
100 x 100. Scores are means over 5 seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, broadcast, gather_rows, rank
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import iter_batches, rank_indices
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL, check_label_range
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.growing_rows import GrowingRows
from cotap_mm.evaluation.metrics import segmentation_scores
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments

KMEANS = ('auto', 'faiss', 'sklearn')


class _Features(NamedTuple):
    """Patches of this rank.

    Attributes:
        rows (Tensor): Features after PCA, shape (n, d).
        images (Tensor): Index of the image of each patch, shape (n,).
        grids (list): Number of patches (h, w) of each image.
        masks (list): Label map of each image, resized.
    """

    rows: Tensor
    images: Tensor
    grids: list[tuple[int, int]]
    masks: list[Tensor]


@accept_separate_arguments
@watch_classes()
def overclustering(
    encoder: Encoder,
    dataset: LabeledSet,
    num_clusters: Sequence[int] = (500,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    num_components: int = 50,
    mask_size: int = 100,
    background: int = 0,
    kmeans: str = 'auto',
    max_patches: int = 1_000_000,
) -> dict[str, Any]:
    """Cluster patches and score the clusters as classes.

    Memory: the reduced features of all patches in float32, sharded across ranks, and at most
    ``max_patches`` of them on every rank for k-means: 4 x ``num_components`` bytes each.

    Args:
        encoder (Encoder): Computes the features that are evaluated.
        dataset (LabeledSet): Images with label maps; the same images are clustered and scored.
        num_clusters (sequence): Numbers K of clusters; the number of classes is always
            measured too, by one-to-one assignment. Defaults to (500,).
        seeds (sequence): Seeds of k-means; scores are means over them. Defaults to 0..4.
        num_components (int): Dimensions after PCA. Defaults to 50.
        mask_size (int): Side of cluster maps and masks in the score, in pixels. Defaults to 100.
        background (int): Class of clusters without a partner in the one-to-one assignment.
            Defaults to 0.
        kmeans (str): ``'faiss'``, ``'sklearn'`` or ``'auto'`` (faiss if installed).
        max_patches (int): Largest number of patches for k-means, evenly spaced. Defaults
            to 1 000 000.

    Returns:
        dict: For each K ``mIoU_K<K>`` (many-to-one) with ``deviation_K<K>`` over seeds, and
        ``mIoU_hungarian`` with ``deviation_hungarian``, in percent.

    Raises:
        ValueError: If there are fewer patches than clusters, or an option is unknown.
    """
    if kmeans not in KMEANS:
        raise ValueError(f'kmeans must be one of {", ".join(KMEANS)}, got {kmeans!r}')
    num_classes = dataset.num_classes
    if not 0 <= background < num_classes:
        raise ValueError(
            f'background must be one of the classes 0..{num_classes - 1}, got {background}'
        )
    if not len(dataset) or not seeds:
        raise ValueError(f'there must be images and seeds, got {len(dataset)} and {len(seeds)}')
    features = _reduced_features(encoder, dataset, num_components, mask_size)
    # In the order of the data set, so the result does not depend on the number of ranks.
    order = gather_rows(features.images).argsort(stable=True)
    sample = _evenly_spaced_rows(gather_rows(features.rows)[order], max_patches)
    scores: dict[str, Any] = {}
    settings = [(f'K{count}', count, False) for count in num_clusters]
    for name, count, one_to_one in [*settings, ('hungarian', num_classes, True)]:
        if count > len(sample):
            raise ValueError(f'{count} clusters need at least as many patches, got {len(sample)}')
        values = []
        for seed in seeds:
            centers = cluster_centers(sample, count, seed, kmeans)
            table = _contingency(features, centers, mask_size, num_classes)
            classes = match_one_to_one(table, background) if one_to_one else table.argmax(dim=1)
            values.append(segmentation_scores(_as_confusion(table, classes))['mIoU'])
        scores[f'mIoU_{name}'] = statistics.mean(values)
        scores[f'deviation_{name}'] = statistics.stdev(values) if len(values) > 1 else 0.0
    return scores


def cluster_centers(rows: Tensor, count: int, seed: int, kmeans: str = 'auto') -> Tensor:
    """Centers (K, d) of k-means on rows (N, d), computed on rank 0 and broadcast."""
    centers = torch.zeros(count, rows.shape[1])
    if rank() == 0:
        data = np.ascontiguousarray(rows.cpu().numpy(), dtype=np.float32)
        centers = torch.from_numpy(_run_kmeans(data, count, seed, kmeans).astype(np.float32))
    return broadcast(centers.to(rows.device))


def match_one_to_one(table: Tensor, background: int) -> Tensor:
    """Assign clusters to classes so that the sum of IoU is maximal (Hungarian algorithm).

    Args:
        table (Tensor): Pixels of each cluster in each class, shape (K, C).
        background (int): Class of clusters without a partner (K > C).

    Returns:
        Tensor: Class of each cluster, shape (K,).
    """
    counts = table.double().cpu()
    union = counts.sum(0, keepdim=True) + counts.sum(1, keepdim=True) - counts
    clusters, classes = scipy.optimize.linear_sum_assignment(
        (counts / union.clamp_min(1)).numpy(), maximize=True
    )
    assigned = torch.full((len(table),), background)
    assigned[torch.from_numpy(clusters)] = torch.from_numpy(classes)
    return assigned.to(table.device)


def _as_confusion(table: Tensor, classes: Tensor) -> Tensor:
    """Convert counts (cluster, class) to counts [true class, predicted class]."""
    confusion = torch.zeros(table.shape[1], table.shape[1], dtype=table.dtype, device=table.device)
    return confusion.index_add_(0, classes, table).T


@torch.no_grad()
def _reduced_features(
    encoder: Encoder, dataset: LabeledSet, num_components: int, mask_size: int
) -> _Features:
    """Encode the images; standardize and reduce the features with statistics over all ranks."""
    rows: Optional[GrowingRows] = None
    grids: list[tuple[int, int]] = []
    masks: list[Tensor] = []
    numbers: list[int] = []
    for indices, images, labels in iter_batches(dataset, 'features'):
        patches = encoder(images).patches
        if rows is None:
            rows = GrowingRows(len(rank_indices(len(dataset))) * patches[0, 0].numel(), 'cpu')
        rows.append(patches.flatten(2).transpose(1, 2).flatten(0, 1))  # (B h w, C)
        grids += [(patches.shape[2], patches.shape[3])] * len(images)
        numbers += [index for index in indices for _ in range(patches[0, 0].numel())]
        masks += [
            F.interpolate(label[None, None].float(), (mask_size, mask_size), mode='nearest-exact')[
                0, 0
            ].long()
            for label in labels
        ]
    if rows is None:  # fewer images than ranks
        one = encoder(torch.zeros(1, 3, encoder.patch_size, encoder.patch_size))
        rows = GrowingRows(0, 'cpu')
        rows.append(one.patches.flatten(1)[:0])
    reduced = _standardize_and_reduce(rows.rows(), num_components)
    return _Features(reduced, torch.tensor(numbers, dtype=torch.long), grids, masks)


def _standardize_and_reduce(rows: Tensor, num_components: int) -> Tensor:
    width = rows.shape[1]
    moments = torch.zeros(width + 2, width, dtype=torch.double)
    for part in rows.split(65536):
        part = part.double()
        moments[:width] += part.T @ part
        moments[width] += part.sum(0)
    moments[width + 1] = len(rows)
    all_reduce_sum(moments)
    count = moments[width + 1, 0]
    mean = moments[width] / count
    covariance = moments[:width] / count - mean[:, None] * mean
    scale = covariance.diagonal().clamp_min(1e-12).rsqrt()
    correlation = covariance * scale[:, None] * scale
    kept = min(num_components, width)
    axes = torch.linalg.eigh(correlation).eigenvectors[:, -kept:].flip(1)  # largest first
    projection = broadcast((scale[:, None] * axes).float())  # (C, d)
    return (rows - mean.float()) @ projection


def _evenly_spaced_rows(rows: Tensor, most: int) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def _run_kmeans(data: np.ndarray, count: int, seed: int, kmeans: str) -> np.ndarray:
    if kmeans in ('auto', 'faiss'):
        try:
            import faiss
        except ImportError as error:
            if kmeans == 'faiss':
                raise ValueError(
                    "kmeans='faiss' needs faiss: pip install faiss-cpu, or use 'sklearn'"
                ) from error
        else:
            fit = faiss.Kmeans(
                data.shape[1],
                count,
                niter=50,
                seed=seed + 1,
                min_points_per_centroid=1,
                max_points_per_centroid=len(data),
            )
            fit.train(data)
            return fit.centroids
    from sklearn.cluster import KMeans

    return KMeans(count, n_init=1, max_iter=50, random_state=seed).fit(data).cluster_centers_


def _contingency(features: _Features, centers: Tensor, mask_size: int, num_classes: int) -> Tensor:
    """Pixels of each cluster in each class, shape (K, C), over all ranks."""
    clusters = (
        torch.cat([torch.cdist(part, centers).argmin(dim=1) for part in features.rows.split(8192)])
        if len(features.rows)
        else None
    )
    table = torch.zeros(len(centers) * num_classes, dtype=torch.long)
    start = 0
    for grid, mask in zip(features.grids, features.masks):
        size = grid[0] * grid[1]
        maps = clusters[start : start + size].view(1, 1, *grid).float()
        start += size
        check_label_range(mask, num_classes)
        labeled = mask != IGNORE_LABEL
        large = F.interpolate(maps, (mask_size, mask_size), mode='nearest-exact')[0, 0].long()
        table += torch.bincount(large[labeled] * num_classes + mask[labeled], minlength=len(table))
    return all_reduce_sum(table).view(len(centers), num_classes)
