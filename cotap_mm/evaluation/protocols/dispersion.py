"""Dispersion: variance of patch features within instances, within classes and between classes.

Quantifies the diagnosis of CoTAP, https://arxiv.org/abs/2509.09429: dense features of
self-supervised ViTs are over-dispersed, patches of one instance differ more than necessary.
The variance of L2-normalized patch features is split into three parts that add up to
100 %: within instances, between the instances of a class, and between classes (analysis of
variance). An instance is a connected component of one class in one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.metrics import patch_labels
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments

POSITION_BINS = 14  # number of rows and of columns of the grid of position bins


class _Sums:
    """Running sums over one layer's features from which all variances are computed."""

    def __init__(self, num_classes: int, width: int) -> None:
        self.classes = torch.zeros(num_classes, width + 1, dtype=torch.double)
        self.positions = torch.zeros(POSITION_BINS**2, width + 1, dtype=torch.double)
        self.products = torch.zeros(width, width, dtype=torch.double)
        self.instances = torch.zeros((), dtype=torch.double)  # sum of |sum|^2 / n
        self.sample: list[Tensor] = []  # rows [features, class]

    def add(
        self, rows: Tensor, classes: Tensor, instances: Tensor, positions: Tensor, kept: Tensor
    ) -> None:
        """Add patches of one image: features (n, d), and class, instance, position bin (n,)."""
        rows = rows.double()
        counted = torch.cat([rows, torch.ones(len(rows), 1).double()], dim=1)
        self.classes.index_add_(0, classes, counted)
        self.positions.index_add_(0, positions, counted)
        self.products += rows.T @ rows
        parts = torch.zeros(int(instances.max()) + 1, counted.shape[1]).double()
        parts.index_add_(0, instances, counted)
        parts = parts[parts[:, -1] > 0]
        self.instances += (parts[:, :-1].square().sum(1) / parts[:, -1]).sum()
        self.sample.append(torch.cat([rows[kept], classes[kept, None].double()], 1).float())

    def reduce(self) -> None:
        """Sum over ranks."""
        for value in (self.classes, self.positions, self.products, self.instances):
            all_reduce_sum(value)
        width = self.products.shape[0] + 1
        self.sample = [gather_rows(torch.cat([torch.zeros(0, width), *self.sample]))]


@accept_separate_arguments
@watch_classes(least=1)
def dispersion(
    encoder: Encoder,
    dataset: LabeledSet,
    purity: float = 0.75,
    layers: bool = True,
    sample_size: int = 5000,
    seed: int = 0,
) -> dict[str, Any]:
    """Split the variance of patch features, for each block and for the encoder's output.

    Memory: a few (d, d) and (classes, d) tables per layer in float64, and ``sample_size`` rows.

    Args:
        encoder (Encoder): Computes the features that are evaluated.
        dataset (LabeledSet): Images with label maps.
        purity (float): Use patches in which one class has at least this share of the labeled
            pixels. Defaults to 0.75.
        layers (bool): Measure each block too, if the network has blocks. Defaults to True.
        sample_size (int): Number of patches for the silhouette, sampled evenly from all images.
            Defaults to 5000.
        seed (int): Seed of the sample. Defaults to 0.

    Returns:
        dict: For the output: ``within_instance``, ``between_instances`` and ``between_classes``
        (percent of the variance, sum 100), ``position`` (percent that is explained by the
        position in the image), ``variance`` (mean squared distance to the mean feature, 0 to 1),
        ``silhouette`` (-1 to 1: (b - a) / max(a, b) with a the distance to the mean of the own
        class and b the distance to the nearest mean of another class), ``effective_rank``
        (exponential of the entropy of the covariance's eigenvalues), and ``layers`` (list of
        dicts with these keys, one per block).

    Raises:
        ValueError: If the data set is empty, a label is out of range, or no patch is pure.
    """
    if not 0 < purity <= 1:
        raise ValueError(f'purity must be in (0, 1], got {purity}')
    if not len(dataset):
        raise ValueError('the data set must contain images, got none')
    # Determine the widths without an image, so that a rank without images can reduce too.
    side = encoder.patch_size
    widths = [maps.shape[1] for maps in _maps(encoder, torch.zeros(1, 3, side, side), layers)]
    sums = [_Sums(dataset.num_classes, width) for width in widths]
    share = -(-sample_size // len(dataset))
    for indices, images, labels in iter_batches(dataset, 'dispersion'):
        maps = [F.normalize(features, dim=1).cpu() for features in _maps(encoder, images, layers)]
        for row, (index, label) in enumerate(zip(indices, labels)):
            grid = (maps[0].shape[2], maps[0].shape[3])
            classes, instances = patch_instances(label, grid, dataset.num_classes, purity)
            chosen = (classes >= 0).nonzero()[:, 0]
            if not len(chosen):
                continue
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            kept = torch.randperm(len(chosen), generator=generator)[:share]
            for layer, features in zip(sums, maps):
                rows = features[row].flatten(1).T[chosen]  # (n, d)
                layer.add(rows, classes[chosen], instances[chosen], _bins(grid)[chosen], kept)
    for layer in sums:
        layer.reduce()
    if not sums[-1].classes[:, -1].sum():
        raise ValueError(
            f'no patch of {len(dataset)} images has {100 * purity:.0f} % of its pixels in one '
            'class; lower purity, or enlarge the images'
        )
    summaries = [_summary(layer) for layer in sums]
    return dict(summaries[-1], layers=summaries[:-1])


def patch_instances(
    label: Tensor, grid: tuple[int, int], num_classes: int, purity: float
) -> tuple[Tensor, Tensor]:
    """Determine class and instance of each patch.

    Args:
        label (Tensor): Class of each pixel, 255 ignored, shape (H, W).
        grid (tuple): Number of patches (h, w).
        num_classes (int): Number of classes.
        purity (float): Smallest share of one class.

    Returns:
        tuple[Tensor, Tensor]: Class (h * w,), -1 for mixed or unlabeled patches, and instance
        (h * w,): index of the connected component (4 neighbors) of patches of one class.
    """
    share, classes = patch_labels(label, grid, num_classes).max(dim=1)
    classes = classes.masked_fill(share < purity, -1).cpu()
    table = classes.view(grid).numpy()
    instances = np.zeros(grid, dtype=np.int64)
    count = 0
    for kind in np.unique(table[table >= 0]):
        areas, num_areas = scipy.ndimage.label(table == kind)
        instances[areas > 0] = areas[areas > 0] + count - 1
        count += num_areas
    return classes, torch.from_numpy(instances).flatten()


def _maps(encoder: Encoder, images: Tensor, layers: bool) -> list[Tensor]:
    output = [encoder(images).patches]
    if not layers:
        return output
    try:
        return encoder.layers(images) + output
    except NotImplementedError:
        return output


def _bins(grid: Sequence[int]) -> Tensor:
    rows, columns = (torch.arange(side) * POSITION_BINS // side for side in grid)
    return (rows[:, None] * POSITION_BINS + columns).flatten()


def _summary(sums: _Sums) -> dict[str, float]:
    """Compute all measures from the sums."""
    count = sums.classes[:, -1].sum()
    mean = sums.classes[:, :-1].sum(0) / count
    covariance = sums.products / count - mean[:, None] * mean
    total = covariance.trace().clamp_min(1e-12)

    def explained(groups: Tensor) -> Tensor:
        """Sum over groups of n |mean|^2, divided by the number of patches."""
        groups = groups[groups[:, -1] > 0]
        return (groups[:, :-1].square().sum(1) / groups[:, -1]).sum() / count

    by_class, by_position = explained(sums.classes), explained(sums.positions)
    raw = sums.products.trace() / count
    by_instance = sums.instances / count
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0)
    spectrum = eigenvalues / eigenvalues.sum().clamp_min(1e-12)
    return dict(
        within_instance=(100 * (raw - by_instance) / total).item(),
        between_instances=(100 * (by_instance - by_class) / total).item(),
        between_classes=(100 * (by_class - mean.square().sum()) / total).item(),
        position=(100 * (by_position - mean.square().sum()) / total).item(),
        variance=total.item(),
        silhouette=_silhouette(sums.sample[0], sums.classes),
        effective_rank=torch.special.entr(spectrum).sum().exp().item(),
    )


def _silhouette(sample: Tensor, classes: Tensor) -> float:
    """Mean of (b - a) / max(a, b) for distances to class means; NaN for fewer than 2 classes."""
    known = classes[:, -1] > 0
    if known.sum() < 2:
        return float('nan')
    means = classes[known, :-1] / classes[known, -1:]
    number = known.long().cumsum(0) - 1  # class -> row of means
    own = number[sample[:, -1].long()]
    distances = torch.cdist(sample[:, :-1].double(), means)
    a = distances.gather(1, own[:, None])[:, 0]
    b = distances.scatter(1, own[:, None], float('inf')).min(dim=1).values
    return ((b - a) / torch.maximum(a, b).clamp_min(1e-12)).mean().item()
