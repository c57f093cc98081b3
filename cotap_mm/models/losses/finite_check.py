"""Values that are no numbers, found before they reach the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_checking: ContextVar[bool] = ContextVar('checking', default=True)


def check_finite(name: str, values: Tensor) -> None:
    """Raise if there are NaN or infinite values; on a GPU nothing is checked.

    There the check would make every step wait for the device.

    Args:
        name (str): What the values are called in the message.
        values (Tensor): Any shape.

    Raises:
        ValueError: If ``values`` are on a CPU and not all finite.
    """
    if values.device.type == 'cpu' and _checking.get() and not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(
            f'{name} must be finite, got {bad} of {values.numel()} values that are '
            'NaN or infinite; lower the learning rate or train in bf16 or float32'
        )


@contextmanager
def skip_finite_checks() -> Iterator[None]:
    """No check within; ``MixedPrecisionOptimWrapper`` leaves out steps that are not finite."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)
