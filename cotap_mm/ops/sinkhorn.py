"""Balanced soft assignment of samples to clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_max, all_reduce_sum

from .precision import at_least_float32

# Values that are converted at a time: to 1 MB of float32 on a CPU, to 64 MB elsewhere.
_PART_ON_CPU, _PART = 2**18, 2**24


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
def balance(
    kernels: Sequence[Tensor], num_iters: int = 3, first_mass: Optional[Tensor] = None
) -> Tensor:
    """Run Sinkhorn's normalization over several blocks of rows together.

    In every iteration the assignment is ``row_scale * kernel * cluster_scale``. So the iterations
    only read the blocks, and only the assignment of the last block is written. An iteration reads a
    block twice, for the mass of the clusters and for the scales of the rows. The last iteration
    does not need the scales of the other blocks, and ``first_mass`` saves the first reading.

    Source: SwAV (https://arxiv.org/abs/2006.09882, Sec. 3.1); scaling form: Cuturi,
    https://arxiv.org/abs/1306.0895.

    Args:
        kernels (Sequence[Tensor]): ``exp(scores / temperature)`` of samples, shape (N, K) each;
            rows of zeros are ignored. Not changed. Blocks before the last one may be bfloat16; all
            sums have the type of the last one.
        num_iters (int): Iterations, >= 1. Defaults to 3.
        first_mass (Tensor, optional): Sum of the rows of all blocks but the last, shape (K,), which
            saves reading them in the first iteration. Defaults to None, computed.

    Returns:
        Tensor: Assignment of the last block, shape (N, K), each row sums to 1.
    """
    last = kernels[-1]
    tiny = torch.finfo(last.dtype).tiny
    # Autocast would round the sums and copy all blocks in every iteration.
    with torch.autocast(last.device.type, enabled=False):
        mass = _mass(last, None, last.dtype)
        if first_mass is not None:
            mass = mass + first_mass.to(mass.dtype)
        else:
            for kernel in kernels[:-1]:
                mass = mass + _mass(kernel, None, last.dtype)
        for left in reversed(range(num_iters)):
            mass = all_reduce_sum(mass)
            # A common factor cancels out in the rows; this one keeps the scales from diverging.
            cluster_scale = mass.sum() / mass.clamp_min(tiny)  # (K,)
            if left:
                mass = torch.stack(
                    [_mass(kernel, cluster_scale, last.dtype) for kernel in kernels]
                ).sum(dim=0)
        row_scale = _row_scale(last, cluster_scale)
    return row_scale[:, None] * last * cluster_scale


def _row_scale(rows: Tensor, cluster_scale: Tensor) -> Tensor:
    """Scale of each row (n, K) that makes its sum 1, (n,)."""
    tiny = torch.finfo(rows.dtype).tiny
    return (rows @ cluster_scale).clamp_min(tiny).reciprocal()


def _mass(kernel: Tensor, cluster_scale: Optional[Tensor], dtype: torch.dtype) -> Tensor:
    """Sum the rows (N, K), each with its scale; without ``cluster_scale``, as they are.

    Rows of another type are converted in parts, which fit into a cache on a CPU.
    """
    size = len(kernel)
    if kernel.dtype != dtype:
        size = (_PART_ON_CPU if kernel.device.type == 'cpu' else _PART) // kernel.shape[1]
    mass = kernel.new_zeros(kernel.shape[1], dtype=dtype)
    for part in kernel.split(max(1, size)):
        rows = part.to(dtype)
        # A product, since it is several times as fast on a CPU as a sum over rows.
        scale = (
            rows.new_ones(len(rows)) if cluster_scale is None else _row_scale(rows, cluster_scale)
        )
        mass += scale @ rows
    return mass
