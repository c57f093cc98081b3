"""Shard a model with PyTorch's ``fully_shard`` (FSDP version 2).

An optimizer gets this rank's shards as plain parameters, since DTensors and plain tensors cannot
be in one call of a fused optimizer, and since each operation on DTensors costs time on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cotap_mm.distributed.collectives import rank, world_size

from .parameters import HAS_FULLY_SHARD

if HAS_FULLY_SHARD:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor


def shard_model(
    model: nn.Module, units: Iterable[nn.Module], replicated: Iterable[nn.Module]
) -> None:
    """Shard the parameters of a model, in place.

    Args:
        model (nn.Module): On its device, equal on all ranks.
        units (Iterable[nn.Module]): Parts that are gathered only while they run. The rest is
            gathered during the whole step.
        replicated (Iterable[nn.Module]): Parts that each rank keeps completely.
    """
    kept = {param for module in replicated for param in module.parameters()}
    device = next(model.parameters()).device.type
    options: dict[str, Any] = dict(
        mesh=init_device_mesh(device, (world_size(),)), ignored_params=kept
    )
    for unit in units:
        fully_shard(unit, reshard_after_forward=True, **options)
    fully_shard(model, reshard_after_forward=False, **options)


def optimized_shards(model: nn.Module) -> dict[str, nn.Parameter]:
    """Make a plain parameter of each shard of a trainable parameter, which receives its gradient.

    Args:
        model (nn.Module): Sharded.

    Returns:
        dict[str, nn.Parameter]: Name -> parameter in the memory of the shard, whose attribute
        ``sharded`` is the DTensor; parameters that are not sharded are themselves.
    """
    shards: dict[str, nn.Parameter] = {}
    for name, param in model.named_parameters():
        if isinstance(param, DTensor) and param.requires_grad:
            shard = nn.Parameter(param.to_local().detach())
            shard.sharded = param  # type: ignore[attr-defined]
            param.shard = shard
            param.register_post_accumulate_grad_hook(_hand_over)
            param = shard
        shards[name] = param
    return shards


@torch.no_grad()
def _hand_over(param: DTensor) -> None:
    """Move a gradient from a DTensor to the parameter that the optimizer has."""
    grad, param.grad = param.grad.to_local(), None
    if param.shard.grad is None:
        param.shard.grad = grad
    else:
        param.shard.grad += grad


def gathered(value: Any, param: nn.Parameter) -> Any:
    """Gather an entry of an optimizer's state; every rank must call this.

    Args:
        value (Any): Entry of the state of ``param``.
        param (nn.Parameter): Of :func:`optimized_shards`.

    Returns:
        Any: If the value has the shape of a shard, the complete tensor; else the value.
    """
    whole = getattr(param, 'sharded', None)
    if whole is None or not _has_shape(value, param):
        return value
    mesh, placements = whole.device_mesh, whole.placements
    parts = DTensor.from_local(
        value, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )
    return parts.full_tensor().cpu()


def own_rows(value: Any, param: nn.Parameter) -> Any:
    """Undo :func:`gathered`, without communication."""
    whole = getattr(param, 'sharded', None)
    return _rows(value) if whole is not None and _has_shape(value, whole) else value


@contextmanager
def sharded_loading(model: nn.Module) -> Iterator[None]:
    """Let a model load complete tensors: each rank keeps its rows.

    Tensors are sharded after the load hooks of the modules that own them, which may change them,
    such as position embeddings of another grid.

    Args:
        model (nn.Module): Sharded. All ranks load the same state dict, of the model without FSDP.
    """

    def shard(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for key, whole in module._parameters.items():
            value = state.get(prefix + key)
            if isinstance(whole, DTensor) and _has_shape(value, whole):
                state[prefix + key] = DTensor.from_local(
                    _rows(value).to(whole.device),
                    whole.device_mesh,
                    whole.placements,
                    run_check=False,
                    shape=whole.shape,
                    stride=whole.stride(),
                )

    handles = [module.register_load_state_dict_pre_hook(shard) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has_shape(value: Any, param: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == param.shape


def _rows(whole: Tensor) -> Tensor:
    """A copy of this rank's rows of a tensor, as ``fully_shard`` splits it."""
    parts = whole.chunk(world_size())
    return (parts[rank()] if rank() < len(parts) else whole[:0]).clone()
