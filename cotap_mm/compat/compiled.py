"""Functions that are faster if ``torch.compile`` fuses them, compiled at their first call."""

from __future__ import annotations

import functools
import logging
from typing import Callable

import torch
from mmengine.logging import print_log


@functools.cache
def can_compile() -> bool:
    """Whether ``torch.compile`` makes kernels for the GPU of this process; it is tried once.

    Without a C compiler, for example, it does not, and a warning says so.
    """
    from torch.utils._triton import has_triton

    if not has_triton():
        return False
    try:
        torch.compile(_successor, dynamic=True)(torch.zeros(2, device='cuda'))
    except Exception as error:  # compilers raise many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print_log(
            f'torch.compile does not work here, so some steps on the GPU are not fused ({reason}). '
            'Triton needs a C compiler, such as gcc, and the headers of Python',
            logger='current',
            level=logging.WARNING,
        )
        return False
    return True


def _successor(x: torch.Tensor) -> torch.Tensor:
    return x + 1


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
