"""Count the operators of PyTorch that compute something: in eager mode, a kernel of a GPU each."""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Optional

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

#: Operators that only allocate, or only read a number.
_NO_WORK = ('empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided')
_NO_WORK += ('_local_scalar_dense', 'promote_types', 'resize_')


class KernelCounter(TorchDispatchMode):
    """Counts operators while it is entered, without views and allocations.

    An operator on a list of tensors, such as an update of all weights, counts once.

    Attributes:
        counts (Counter): Calls by name of the operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in _NO_WORK and not _is_view(func, (args, kwargs), result):
            self.counts[name] += 1
        return result


def _is_view(func: Any, given: Any, result: Any) -> bool:
    """Whether all that an operator returns is in the storages that it got."""
    made = _storages(result)
    return bool(made) and not func._schema.is_mutable and made <= _storages(given)


def _storages(values: Any) -> set[int]:
    tensors = (value for value in tree_flatten(values)[0] if isinstance(value, Tensor))
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def count_kernels(work: Callable[[], Any]) -> int:
    """Number of operators that ``work`` computes."""
    with KernelCounter() as counter:
        work()
    return sum(counter.counts.values())
