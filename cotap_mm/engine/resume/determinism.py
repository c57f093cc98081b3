"""The same bits from run to run on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def deterministic_on_cpu(model: nn.Module) -> Iterator[None]:
    """Let PyTorch add in a fixed order while a model on a CPU is trained.

    Some of its gradients are added up by several threads in the order in which they come, e.g.
    those of ``x[index]``. It costs no time that could be measured. On a GPU it does; there
    ``randomness=dict(deterministic=True)`` in the config asks for it.

    Args:
        model (nn.Module): Its parameters say where it runs.
    """
    param = next(model.parameters(), None)
    if param is None or param.device.type != 'cpu' or torch.are_deterministic_algorithms_enabled():
        yield
        return
    # It would also fill all new memory, which only shows what reads it too early.
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
