"""Functions that are faster if ``torch.compile`` fuses them, compiled at their first call."""

from __future__ import annotations

from typing import Callable

import torch


def can_compile() -> bool:
    """Whether ``torch.compile`` can make kernels for the GPUs of this machine."""
    from torch.utils._triton import has_triton

    return has_triton()


def compiled(function: Callable) -> Callable:
    """Compile a function for all shapes; the same object for each call with a function.

    Args:
        function (callable): A function of a module.

    Returns:
        callable: Does the same.
    """
    if function not in _COMPILED:
        _COMPILED[function] = torch.compile(function, dynamic=True)
    return _COMPILED[function]


_COMPILED: dict[Callable, Callable] = {}
