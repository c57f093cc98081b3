"""Support bfloat16 and float16 in MMCV's compiled operators on CPU.

MMCV's CPU operators support float32 and float64 only, and compare the types of their arguments:
under autocast, ``nms`` gets float32 boxes with bfloat16 scores and raises "expected scalar type
Float but found BFloat16". All operators are called through one module, ``mmcv._ext``, so wrapping
its functions covers every operator.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Callable

import torch
from torch import Tensor

_LOW = (torch.bfloat16, torch.float16)
_MARK = '_takes_low_precision'


def allow_low_precision_operators() -> int:
    """Wrap MMCV's operators, once; does nothing without MMCV's operators.

    Results are those for float32 arguments, rounded if an operator writes to a low-precision
    tensor. Calls with float32 arguments, and on a GPU, are forwarded unchanged.

    Returns:
        int: Number of operators that this call wrapped.
    """
    try:
        extension = importlib.import_module('mmcv._ext')
    except ImportError:
        return 0
    count = 0
    for name in dir(extension):
        operator = getattr(extension, name)
        if name.startswith('_') or not callable(operator) or getattr(operator, _MARK, False):
            continue
        setattr(extension, name, _in_float32(operator))
        count += 1
    return count


def _in_float32(operator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operator)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if not any(_is_low(value) for value in given):
            return operator(*args, **kwargs)
        wide, casts = _widened(given)
        result = operator(*wide[: len(args)], **dict(zip(kwargs, wide[len(args) :])))
        for narrow, value in casts:
            # Operators write to some arguments. The others must not be modified: autograd
            # refuses a backward pass through modified tensors.
            if not _same_bits(value, narrow.detach().float()):
                narrow.detach().copy_(value)
        return result

    setattr(call, _MARK, True)
    return call


def _is_low(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _LOW and value.device.type == 'cpu'


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """Bitwise equality of float32 tensors, so that NaN equals NaN."""
    return torch.equal(first.contiguous().view(torch.int32), second.contiguous().view(torch.int32))


def _widened(values: list) -> tuple[list, list]:
    """Cast low-precision tensors to float32; also returns the pairs (low, float32)."""
    wide, casts = [], []
    for value in values:
        if _is_low(value):
            casts.append((value, value.detach().float()))
            value = casts[-1][1]
        wide.append(value)
    return wide, casts
