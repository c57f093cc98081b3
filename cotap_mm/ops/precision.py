"""Where half precision is not enough."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision and integers as float32; float32 and float64 as they are.

    Args:
        values (Tensor): Any shape.

    Returns:
        Tensor: Same shape.
    """
    return values if values.dtype == torch.float64 else values.float()
