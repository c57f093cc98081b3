"""Save less for the backward pass: cheap intermediate results are computed again."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

try:
    from torch.compiler import is_compiling
except ImportError:  # torch < 2.3

    def is_compiling() -> bool:
        """Whether ``torch.compile`` is tracing."""
        return torch._dynamo.is_compiling()


def save_source(
    cheap: Callable[[Tensor], Tensor], source: Tensor, consumer: Callable[[Tensor], Any]
) -> Any:
    """Compute ``consumer(cheap(source))`` without keeping the result of ``cheap``.

    A linear layer after an activation or a norm keeps its input, and the activation or norm keeps
    its own: twice the memory for one value. Here the layer keeps the source, and its backward pass
    applies ``cheap`` again. Values and gradients are the same to the bit.

    Under ``torch.compile`` nothing changes, since its partitioner decides what to compute again.

    Args:
        cheap (Callable): A deterministic function of the values of its input that neither changes
            them nor their number, such as an activation or a layer norm.
        source (Tensor): Its input, which it must keep anyway.
        consumer (Callable): Layers that start with a linear one.

    Returns:
        The result of ``consumer``.
    """
    made = cheap(source)
    if not made.requires_grad or is_compiling():
        return consumer(made)
    kept, key = source.detach(), _key(made)

    def pack(saved: Tensor) -> Any:
        return (saved.shape, saved.stride()) if _key(saved) == key else saved

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return cheap(kept).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return consumer(made)


def _key(tensor: Tensor) -> tuple:
    """What a tensor shares with views of all of its values; it is valid while the tensor lives."""
    return tensor.untyped_storage()._cdata, tensor.numel(), tensor.dtype
