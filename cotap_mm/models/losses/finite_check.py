"""Detect NaN and infinity before they reach the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_checking: ContextVar[bool] = ContextVar('checking', default=True)


def check_finite(name: str, values: Tensor) -> None:
    """Raise if values on a CPU are NaN or infinite.

    Values on other devices are not checked, since the check would synchronize host and device in
    every step.

    Args:
        name (str): Name of the values in the error message.
        values (Tensor): Any shape.

    Raises:
        ValueError: If ``values`` are on a CPU and not all finite.
    """
    if values.device.type == 'cpu' and _checking.get() and not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(
            f'{name} must be finite, got {bad} of {values.numel()} values that are NaN or '
            'infinite; lower the learning rate or train in bf16 or float32'
        )


@contextmanager
def skip_finite_checks() -> Iterator[None]:
    """Disable the checks, for code whose non-finite steps ``MixedPrecisionOptimWrapper`` skips."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)
