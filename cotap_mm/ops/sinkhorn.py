"""Balanced soft assignment of samples to clusters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_max, all_reduce_sum

from .precision import at_least_float32


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, num_iters: int = 3) -> Tensor:
    """Assign samples softly to clusters of equal mass.

    Starts from ``exp(scores / temperature)`` and alternates between scaling clusters to equal
    mass and samples to equal mass. The mass of a cluster is summed over the samples of
    **all ranks**, so the ranks of a batch compute what one process would. (The released
    implementation discards the reduced value.)

    Source: SwAV (https://arxiv.org/abs/2006.09882, Sec. 3.1), as used by CoTAP
    (https://arxiv.org/abs/2509.09429).

    Args:
        scores (Tensor): Cosines of samples and cluster centers, shape (N, K).
        temperature (float): Sharpness of the assignment, > 0.
        num_iters (int): Iterations of normalization, >= 1. Defaults to 3.

    Returns:
        Tensor: Assignment, shape (N, K), each row sums to 1. float64 for float64 scores, else
        float32.

    Raises:
        ValueError: If ``scores`` is not 2-D or an option is out of range.
    """
    if scores.ndim != 2:
        raise ValueError(f'scores must have shape (N, K), got {tuple(scores.shape)}')
    if not temperature > 0:
        raise ValueError(f'temperature must be > 0, got {temperature}')
    if num_iters < 1:
        raise ValueError(f'num_iters must be >= 1, got {num_iters}')
    precise = at_least_float32(scores)
    logits = precise / temperature
    # A shift that is common to all ranks cancels out and keeps exp() finite.
    peak = all_reduce_max(logits.max() if logits.numel() else logits.new_tensor(-1e30))
    kernel = logits.sub_(peak).exp_()
    return balance([kernel], num_iters)


@torch.no_grad()
def balance(kernels: Sequence[Tensor], num_iters: int = 3) -> Tensor:
    """Run Sinkhorn's normalization over several blocks of rows together.

    In every iteration the assignment is ``row_scale * kernel * cluster_scale``. So the iterations
    only read the blocks, and only the assignment of the last block is written.

    Source: SwAV (https://arxiv.org/abs/2006.09882, Sec. 3.1); scaling form: Cuturi,
    https://arxiv.org/abs/1306.0895.

    Args:
        kernels (Sequence[Tensor]): ``exp(scores / temperature)`` of samples, shape (N, K) each;
            rows of zeros are ignored. Not changed.
        num_iters (int): Iterations, >= 1. Defaults to 3.

    Returns:
        Tensor: Assignment of the last block, shape (N, K), each row sums to 1.
    """
    tiny = torch.finfo(kernels[0].dtype).tiny
    row_scales = [kernel.new_ones(len(kernel)) for kernel in kernels]
    cluster_scale = kernels[0].new_ones(kernels[0].shape[1])
    # Autocast would round the sums and copy all blocks in every iteration.
    with torch.autocast(kernels[0].device.type, enabled=False):
        for left in reversed(range(num_iters)):
            mass = torch.stack([row @ kernel for row, kernel in zip(row_scales, kernels)])
            mass = all_reduce_sum(mass.sum(dim=0))
            # A common factor cancels out in the rows; this one keeps the scales from diverging.
            cluster_scale = mass.sum() / mass.clamp_min(tiny)  # (K,)
            needed = kernels if left else kernels[-1:]  # the result has the rows of the last block
            row_scales = [
                (kernel @ cluster_scale).clamp_min(tiny).reciprocal() for kernel in needed
            ]
    return row_scales[-1][:, None] * kernels[-1] * cluster_scale
