"""Access the parameters of a model that FSDP may have sharded.

There are two FSDPs. Version 1 wraps modules and gathers flat parameters; version 2
(``fully_shard``) leaves the modules as they are and makes each parameter a DTensor, of which each
rank holds a part of the rows.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed.fsdp as torch_fsdp
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from cotap_mm.distributed.collectives import all_reduce_max, all_reduce_sum, rank
from cotap_mm.distributed.model_wrapper import unwrap

_fully_shard = getattr(torch_fsdp, 'fully_shard', None)

#: Whether this PyTorch has what version 2 needs, which is so from 2.7 on.
HAS_FULLY_SHARD = (
    _fully_shard is not None and 'ignored_params' in inspect.signature(_fully_shard).parameters
)
if HAS_FULLY_SHARD:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
#: Names that FSDP and recomputation insert.
_WRAPPERS = re.compile(r'_(fsdp|checkpoint)_wrapped_module\.')


def is_fully_sharded(model: nn.Module) -> bool:
    """Whether version 2 shards the model."""
    return HAS_FULLY_SHARD and isinstance(model, FSDPModule)


def is_shard(tensor: Any) -> bool:
    """Whether a tensor is sharded by version 2, or is a rank's shard that an optimizer has."""
    return (HAS_FULLY_SHARD and isinstance(tensor, DTensor)) or hasattr(tensor, 'sharded')


def local_part(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this rank holds, without autograd; all of them if not sharded."""
    if HAS_FULLY_SHARD and isinstance(tensor, DTensor):
        with torch.no_grad():
            return tensor.to_local()
    return tensor.data


@contextmanager
def paired_parameters(model: nn.Module) -> Iterator[None]:
    """Let student and teacher hold the same part of each parameter: all of it, or one shard.

    Every rank must enter this context. Inside, only parameters that are not sharded by version 1
    may be changed, and no forward pass is allowed.

    Args:
        model (nn.Module): Model, wrapped or not.
    """
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            yield
        return
    if is_fully_sharded(model):
        model.reshard()  # a forward pass without a backward pass leaves the root gathered
    yield


@contextmanager
def whole_networks(model: nn.Module, what: str) -> Iterator[None]:
    """Gather all parameters, for forward passes whose number differs between ranks.

    Every rank must enter this context. Inside, nothing may be changed.

    Args:
        model (nn.Module): Model that is not sharded, or sharded by version 2.
        what (str): Name of what needs them, for the message.

    Raises:
        ValueError: If version 1 shards the model.
    """
    if not is_fully_sharded(model):
        require_unsharded(model, what)
        yield
        return
    # By default the first module that runs becomes the root, which must be the whole model.
    model._get_fsdp_state()._lazy_init()
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for unit in units:
        unit.unshard()
    # Hooks of FSDP shard the parameters when a state dict is made.
    hooks = [(module, module._state_dict_pre_hooks) for module in model.modules()]
    for module, _ in hooks:
        module._state_dict_pre_hooks = OrderedDict()
    try:
        yield
    finally:
        for module, own in hooks:
            module._state_dict_pre_hooks = own
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def full_state_dict(model: nn.Module) -> dict[str, Any]:
    """State dict with complete parameters; every rank must call this.

    Args:
        model (nn.Module): Model, wrapped or not.

    Returns:
        dict[str, Any]: As of the model without FSDP; on ranks other than 0, sharded parameters are
        missing.
    """
    state = model.state_dict()
    for name, value in list(state.items()):
        if HAS_FULLY_SHARD and isinstance(value, DTensor):
            full = value.full_tensor()
            if rank() == 0:
                state[name] = full.cpu()
            else:
                del state[name]
    return state


def require_unsharded(model: nn.Module, what: str) -> None:
    """Refuse a sharded model where all parameters are needed on every rank.

    Args:
        model (nn.Module): Model, wrapped or not.
        what (str): Name of what needs them, for the message.

    Raises:
        ValueError: If the model's parameters are sharded.
    """
    if isinstance(model, FullyShardedDataParallel) or is_fully_sharded(model):
        raise ValueError(
            f"{what} needs the full network on every rank, but the config's "
            'strategy shards it; remove one of the two'
        )


def original_shape(param: nn.Parameter) -> torch.Size:
    """Shape of a parameter before FSDP flattened and sharded it."""
    return getattr(param, 'original_shape', param.shape)


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by their names in the model without wrappers.

    Args:
        model (nn.Module): Model, wrapped or not.
    """
    return {_WRAPPERS.sub('', name): param for name, param in unwrap(model).named_parameters()}


def total_norm(norms: Sequence[Tensor], are_shards: Sequence[bool], kind: float = 2.0) -> Tensor:
    """Combine norms of tensors to the norm of all of them, a scalar that is equal on all ranks.

    Args:
        norms (Sequence[Tensor]): Norm of each tensor, or of this rank's shard of it.
        are_shards (Sequence[bool]): Which of them are norms of shards.
        kind (float): 2 for the Euclidean norm, ``inf`` for the largest element. Defaults to 2.
    """
    each = torch.stack(list(norms))
    if not any(are_shards):
        return each.norm(kind)
    if math.isinf(kind):
        return all_reduce_max(each.max())
    shares = torch.tensor(are_shards, device=each.device)
    powers = each**kind
    sharded = all_reduce_sum((powers * shares).sum())
    return (sharded + (powers * ~shares).sum()) ** (1 / kind)


def as_checkpoint(loaded: dict[str, Any]) -> None:
    """Bring a loaded file into the form of a checkpoint.

    Args:
        loaded (dict): A checkpoint, or only its state dict; changed in place. Names may start with
            ``module.``, as those of a model in DistributedDataParallel do.
    """
    if 'state_dict' not in loaded:
        weights = dict(loaded)
        loaded.clear()
        loaded['state_dict'] = weights
    weights = loaded['state_dict']
    for name in [name for name in weights if name.startswith('module.')]:
        weights[name.removeprefix('module.')] = weights.pop(name)
