"""k-means on the unit sphere."""

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

    Starts from random samples; centres that lose all their samples are set to
    random samples again; ends when no sample changes its cluster.

    Args:
        samples (Tensor): Vectors, normalised here, shape (N, C).
        num_clusters (int): M, number of centres, 1..N.
        max_iters (int): Most rounds. Defaults to 100.
        generator (torch.Generator, optional): Source of randomness, on the CPU.

    Returns:
        Tensor: Centres of unit length, shape (M, C).

    Raises:
        ValueError: If there are fewer samples than centres.
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
        # A sum of opposite directions has no direction: such a centre is dead as well.
        dead = sums.norm(dim=1) < 1e-6
        if dead.any():
            sums[dead] = random_samples(int(dead.sum()))
            assigned = torch.full_like(assigned, -1)
        centers = F.normalize(sums, dim=1)
    return centers
