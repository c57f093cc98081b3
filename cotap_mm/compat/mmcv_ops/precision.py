"""Data type to compute in, and gradients by repeating a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Widest type of the tensors, at least float32: not every kernel supports float16."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def gradients(
    forward: Callable[..., Tensor], arguments: Sequence[Tensor], grad_output: Tensor
) -> tuple[Optional[Tensor], ...]:
    """Gradients of ``forward(*arguments)`` for all arguments.

    MMCV's backward functions get the inputs but no graph, so the forward pass is repeated.

    Args:
        forward (callable): A differentiable function of the arguments.
        arguments (sequence of Tensor): Floating-point tensors of one type.
        grad_output (Tensor): Gradient of the result, of the same shape and of any type.

    Returns:
        tuple[Tensor | None]: One per argument; None if the result does not depend on it.
    """
    with torch.enable_grad():
        leaves = [argument.detach().requires_grad_() for argument in arguments]
        output = forward(*leaves)
    if not output.requires_grad:
        return (None,) * len(leaves)
    return torch.autograd.grad(output, leaves, grad_output.to(output.dtype), allow_unused=True)


def write(target: Tensor, value: Optional[Tensor]) -> None:
    """Copy a gradient to the tensor that MMCV has allocated; None counts as zero."""
    if value is None:
        target.zero_()
    else:
        target.copy_(value.view_as(target))
