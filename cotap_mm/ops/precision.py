"""Floating-point precision."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision and integers to float32; keep float32 and float64.

    Args:
        values (Tensor): Any shape.

    Returns:
        Tensor: Same shape, float32 or float64.
    """
    return values if values.dtype == torch.float64 else values.float()
