"""k-means on the unit sphere.

The package has three k-means, for three different uses. This one starts the prototypes and must
follow the reference: cosine similarity, random resets of empty clusters, draws from torch's
generator, any device. ``cotap_mm.evaluation.protocols.overclustering`` clusters the patches of a
data set by Euclidean distance, fast, with faiss or scikit-learn.
``cotap_mm.visualization.figures.clusters`` groups the patches of a few images for a figure, with
scikit-learn's mini-batch k-means.
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32


@torch.no_grad()
def spherical_kmeans(
    samples: Tensor,
    num_clusters: int,
    max_iters: int = 100,
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    """Cluster directions by cosine similarity.

    Starts from random samples, resets centers without samples to random samples, and stops when no
    sample changes its cluster.

    Args:
        samples (Tensor): Vectors, normalized here, shape (N, C).
        num_clusters (int): M, number of centers, in 1..N.
        max_iters (int): Maximum number of iterations. Defaults to 100.
        generator (torch.Generator, optional): Source of randomness, on the CPU. Defaults to the
            global one.

    Returns:
        Tensor: Centers of unit length, shape (M, C).

    Raises:
        ValueError: If there are fewer samples than centers.
    """
    num_samples = len(samples)
    if not 1 <= num_clusters <= num_samples:
        raise ValueError(
            f'num_clusters must be in 1..{num_samples} (the number of samples), got {num_clusters}'
        )
    samples = F.normalize(at_least_float32(samples), dim=1)

    def random_samples(count: int) -> Tensor:
        chosen = torch.randperm(num_samples, generator=generator)[:count]
        return samples[chosen.to(samples.device)]

    centers = random_samples(num_clusters)
    assigned = samples.new_full((num_samples,), -1, dtype=torch.long)
    for _ in range(max_iters):
        with torch.autocast(samples.device.type, enabled=False):
            nearest = (samples @ centers.T).argmax(dim=1)  # (N,)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        sums = torch.zeros_like(centers).index_add_(0, nearest, samples)  # (M, C)
        # A zero sum of opposite directions has no direction: reset such a center as well.
        dead = sums.norm(dim=1) < 1e-6
        if dead.any():
            sums[dead] = random_samples(int(dead.sum()))
            assigned = torch.full_like(assigned, -1)
        centers = F.normalize(sums, dim=1)
    return centers
