"""Deterministic training on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def deterministic_on_cpu(model: nn.Module) -> Iterator[None]:
    """Use deterministic algorithms while a model on a CPU is trained.

    Otherwise several threads accumulate some gradients in an arbitrary order, e.g. those of
    ``x[index]``. On a CPU this has no measurable cost. On a GPU it has; there the config must
    set ``randomness=dict(deterministic=True)``.

    Args:
        model (nn.Module): Its parameters determine the device.
    """
    param = next(model.parameters(), None)
    if param is None or param.device.type != 'cpu' or torch.are_deterministic_algorithms_enabled():
        yield
        return
    # It would also fill all new memory, which only helps to find reads of uninitialized values.
    settings = getattr(torch.utils, 'deterministic', None)
    fills = getattr(settings, 'fill_uninitialized_memory', None)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if fills is not None:
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        if fills is not None:
            settings.fill_uninitialized_memory = fills
