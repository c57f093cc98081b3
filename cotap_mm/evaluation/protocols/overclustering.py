"""Overclustering: are classes unions of clusters of patch features?

k-means on the patch features of the validation images, without labels; each cluster then
gets a class with the labels' help. Source: Leopart, https://arxiv.org/abs/2204.13101: features
standardised per channel, PCA to 50 dimensions, K = 500 clusters, each named after the
class it holds most of (best precision); for K = number of classes a one-to-one assignment
(Hungarian). Feature maps and masks meet at 100 x 100. Figures are means over 5 seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, broadcast, gather_rows, rank
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.evaluation.metrics import segmentation_scores

KMEANS = ('auto', 'faiss', 'sklearn')


class _Features(NamedTuple):
    """This rank's patches after PCA (n, d), their images' indices (n,); grid and mask an image."""

    rows: Tensor
    images: Tensor
    grids: list[tuple[int, int]]
    masks: list[Tensor]


@watch_classes()
def overclustering(
    encoder: Encoder,
    dataset: Any,
    num_classes: int,
    num_clusters: Sequence[int] = (500,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    num_components: int = 50,
    mask_size: int = 100,
    background: int = 0,
    kmeans: str = 'auto',
    max_patches: int = 1_000_000,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Cluster patches and score the clusters as classes.

    Memory: the reduced features of all patches in float32, shared out to the ranks, and at most
    ``max_patches`` of them on every rank for k-means: 4 x ``num_components`` bytes each.

    Args:
        encoder (Encoder): The features to measure.
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``; 255 is
            ignored. Clusters and scores are of the same images.
        num_classes (int): Number of classes.
        num_clusters (sequence): Numbers K of clusters; ``num_classes`` is always
            measured too, by one-to-one assignment. Defaults to (500,).
        seeds (sequence): Of k-means; scores are means over them. Defaults to 0..4.
        num_components (int): Dimensions after PCA. Defaults to 50.
        mask_size (int): Side of cluster maps and masks in the score. Defaults to 100.
        background (int): Class of clusters that the one-to-one assignment leaves over.
            Defaults to 0.
        kmeans (str): ``'faiss'``, ``'sklearn'`` or ``'auto'`` (faiss where installed).
        max_patches (int): k-means sees at most this many patches, evenly taken. Defaults
            to 1 000 000.
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.

    Returns:
        dict: For each K ``mIoU_K<K>`` (many-to-one) with ``deviation_K<K>`` over seeds, and
        ``mIoU_hungarian`` with ``deviation_hungarian``, in per cent.

    Raises:
        ValueError: If there are fewer patches than clusters, or an option is unknown.
    """
    if kmeans not in KMEANS:
        raise ValueError(f'kmeans must be one of {", ".join(KMEANS)}, got {kmeans!r}')
    if not 0 <= background < num_classes:
        raise ValueError(
            f'background must be one of the classes 0..{num_classes - 1}, got {background}'
        )
    if not len(dataset) or not seeds:
        raise ValueError(f'there must be images and seeds, got {len(dataset)} and {len(seeds)}')
    found = _reduced_features(encoder, dataset, num_components, mask_size, image_size, batch_size)
    # In the order of the data set, so that the number of ranks changes nothing.
    order = gather_rows(found.images).argsort(stable=True)
    sample = _spread(gather_rows(found.rows)[order], max_patches)
    scores: dict[str, Any] = {}
    settings = [(f'K{count}', count, False) for count in num_clusters]
    for name, count, one_to_one in [*settings, ('hungarian', num_classes, True)]:
        if count > len(sample):
            raise ValueError(f'{count} clusters need at least as many patches, got {len(sample)}')
        values = []
        for seed in seeds:
            centers = cluster_centers(sample, count, seed, kmeans)
            table = _contingency(found, centers, mask_size, num_classes)
            classes = match_one_to_one(table, background) if one_to_one else table.argmax(dim=1)
            values.append(segmentation_scores(_as_confusion(table, classes))['mIoU'])
        scores[f'mIoU_{name}'] = statistics.mean(values)
        scores[f'deviation_{name}'] = statistics.stdev(values) if len(values) > 1 else 0.0
    return scores


def cluster_centers(rows: Tensor, count: int, seed: int, kmeans: str = 'auto') -> Tensor:
    """Centres (K, d) of k-means on rows (N, d), computed on rank 0 and given to all."""
    centers = torch.zeros(count, rows.shape[1])
    if rank() == 0:
        data = np.ascontiguousarray(rows.cpu().numpy(), dtype=np.float32)
        centers = torch.from_numpy(_run_kmeans(data, count, seed, kmeans).astype(np.float32))
    return broadcast(centers.to(rows.device))


def match_one_to_one(table: Tensor, background: int) -> Tensor:
    """Hungarian assignment of clusters to classes.

    Args:
        table (Tensor): Pixels of each cluster in each class, shape (K, C).
        background (int): Class of clusters that are left over (K > C).

    Returns:
        Tensor: Class of each cluster, shape (K,); the sum of IoU is the largest possible.
    """
    counts = table.double().cpu()
    union = counts.sum(0, keepdim=True) + counts.sum(1, keepdim=True) - counts
    clusters, classes = linear_sum_assignment((counts / union.clamp_min(1)).numpy(), maximize=True)
    found = torch.full((len(table),), background)
    found[torch.from_numpy(clusters)] = torch.from_numpy(classes)
    return found.to(table.device)


def _as_confusion(table: Tensor, classes: Tensor) -> Tensor:
    """Counts (cluster, class) and the class of each cluster -> [true, predicted] counts."""
    confusion = torch.zeros(table.shape[1], table.shape[1], dtype=table.dtype, device=table.device)
    return confusion.index_add_(0, classes, table).T


@torch.no_grad()
def _reduced_features(
    encoder: Encoder,
    dataset: Any,
    num_components: int,
    mask_size: int,
    image_size: Optional[Size],
    batch_size: int,
) -> _Features:
    """Encode; standardise and reduce with statistics over all ranks."""
    rows: list[Tensor] = []
    grids: list[tuple[int, int]] = []
    masks: list[Tensor] = []
    numbers: list[int] = []
    for indices, images, labels in iter_batches(dataset, batch_size, image_size, 'features'):
        patches = encoder(images).patches
        rows.append(patches.flatten(2).transpose(1, 2).flatten(0, 1).cpu())  # (B h w, C)
        grids += [(patches.shape[2], patches.shape[3])] * len(images)
        numbers += [index for index in indices for _ in range(patches[0, 0].numel())]
        masks += [
            F.interpolate(label[None, None].float(), (mask_size, mask_size), mode='nearest-exact')[
                0, 0
            ].long()
            for label in labels
        ]
    if not rows:  # fewer images than ranks
        rows = [
            encoder(torch.zeros(1, 3, encoder.patch_size, encoder.patch_size))
            .patches.flatten(1)
            .cpu()[:0]
        ]
    reduced = _standardize_and_reduce(torch.cat(rows), num_components)
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


def _spread(rows: Tensor, most: int) -> Tensor:
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


def _contingency(found: _Features, centers: Tensor, mask_size: int, num_classes: int) -> Tensor:
    """Pixels of each cluster in each class, shape (K, C), over all ranks."""
    clusters = (
        torch.cat([torch.cdist(part, centers).argmin(dim=1) for part in found.rows.split(8192)])
        if len(found.rows)
        else None
    )
    table = torch.zeros(len(centers) * num_classes, dtype=torch.long)
    start = 0
    for grid, mask in zip(found.grids, found.masks):
        size = grid[0] * grid[1]
        maps = clusters[start : start + size].view(1, 1, *grid).float()
        start += size
        labelled = mask != IGNORE_LABEL
        large = F.interpolate(maps, (mask_size, mask_size), mode='nearest-exact')[0, 0].long()
        if labelled.any() and int(mask[labelled].max()) >= num_classes:
            raise ValueError(
                f'labels must be 0..{num_classes - 1} or {IGNORE_LABEL} (ignored), '
                f'got {int(mask[labelled].max())}; check num_classes'
            )
        table += torch.bincount(
            large[labelled] * num_classes + mask[labelled], minlength=len(table)
        )
    return all_reduce_sum(table).view(len(centers), num_classes)
