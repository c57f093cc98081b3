"""FSDP: shard weights, gradients and optimizer state across ranks.

For ViT-L and larger. Only the student's backbone and heads are sharded: they have gradients and
the optimizer's two moments. The teacher, which has neither, and the small filter are replicated
on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
)

from cotap_mm.registry import STRATEGIES

from .collectives import all_reduce_sum, broadcast, world_size

#: Parts of CoTAP that are replicated on every rank.
_REPLICATED = (
    'neck',
    'teacher',
    'anchor',
    'losses',
    'pairs',
    'patch_queue',
    'cls_queue',
    'template_bank',
    'data_preprocessor',
)


@contextmanager
def full_parameters(model: nn.Module) -> Iterator[None]:
    """Gather all parameters of a possibly sharded model, for reading on every rank.

    Every rank must enter this context. Inside, parameters must not be changed, and no forward
    pass is allowed.

    Args:
        model (nn.Module): Model, wrapped or not.
    """
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            yield
    else:
        yield


def require_unsharded(model: nn.Module, what: str) -> None:
    """Refuse a sharded model where all parameters are needed on every rank.

    Args:
        model (nn.Module): Model, wrapped or not.
        what (str): Name of what needs them, for the message.

    Raises:
        ValueError: If the model's parameters are sharded.
    """
    if isinstance(model, FullyShardedDataParallel):
        raise ValueError(
            f"{what} needs the full network on every rank, but the config's "
            'strategy shards it; remove one of the two'
        )


def original_ndim(param: nn.Parameter) -> int:
    """Number of dimensions of a parameter before FSDP flattened and sharded it."""
    return getattr(param, 'original_ndim', param.ndim)


@STRATEGIES.register_module()
class CoTAPFSDPStrategy(FSDPStrategy):
    """MMEngine's FSDPStrategy for :class:`CoTAP`, which FlexibleRunner uses.

    ``strategy=dict(type='cotap_mm.CoTAPFSDPStrategy')`` in a config is all that is needed. Each
    block except the last one, which the filter reads, is an FSDP unit. Checkpoints have the
    format of any other run: a run may be resumed with or without the strategy.

    Args:
        **kwargs (dict): Arguments of MMEngine's FSDPStrategy except ``state_dict_cfg``.

    Raises:
        ValueError: If the model or the optimizer needs full gradients or parts of blocks.
    """

    def __init__(self, **kwargs) -> None:
        # On CPU, offloading to the CPU does not copy, and the tensor is freed while it is read.
        offload = dict(rank0_only=True, offload_to_cpu=torch.cuda.is_available())
        super().__init__(
            **kwargs,
            state_dict_cfg=dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=FullStateDictConfig(**offload),
                optim_state_dict_config=FullOptimStateDictConfig(**offload),
            ),
        )

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if model.backbone.with_cp == 'mlp':
            raise ValueError(
                "model.backbone.with_cp='mlp' reads parts of a block, but FSDP "
                'gathers complete blocks; use with_cp=True'
            )
        model = model.to(get_device())
        for tensor in (*model.parameters(), *model.buffers()):
            broadcast(tensor.data)
        for param in model.parameters():
            param.original_ndim = param.ndim
        units: set[nn.Module] = set(model.backbone.layers[:-1])
        units.update(model.head.children())
        on_gpu = torch.cuda.is_available()
        self.model_wrapper = {
            'type': 'MMFullyShardedDataParallel',
            'use_orig_params': True,
            'device_id': torch.cuda.current_device() if on_gpu else torch.device('cpu'),
            'auto_wrap_policy': lambda module, recurse, **_: recurse or module in units,
            'ignored_modules': [
                getattr(model, name) for name in _REPLICATED if getattr(model, name) is not None
            ],
            **(self.model_wrapper or {}),
        }
        return super()._wrap_model(model)

    def build_optim_wrapper(self, optim_wrapper, model=None):
        """Build the wrapper, and average the gradients of the filter, which FSDP ignores.

        Args:
            optim_wrapper (dict | OptimWrapper): Config or wrapper.
            model (nn.Module, optional): Sharded model. Defaults to None.

        Returns:
            OptimWrapper: The wrapper.

        Raises:
            ValueError: If gradient clipping or float16 is requested.
        """
        built = super().build_optim_wrapper(optim_wrapper, model)
        if built.clip_grad_kwargs:
            raise ValueError(
                'optim_wrapper.clip_grad needs full gradients, but FSDP shards '
                'them across ranks; remove it or the strategy'
            )
        if getattr(built, 'cast_dtype', None) is torch.float16:
            raise ValueError(
                'float16 with FSDP is not supported; use '
                "optim_wrapper.dtype='bfloat16' or 'float32'"
            )
        built.is_sharded = True
        for param in model.module.neck.parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(_average)
        return built

    def optim_state_dict(self) -> dict:
        """Optimizer state in the format of a run without FSDP; empty on ranks other than 0."""
        state = super().optim_state_dict()
        if not state:
            return {}
        state = _renamed(state, {name: i for i, name in enumerate(self._names())})
        # MMEngine stores these next to the groups, to log the schedule.
        return dict(state, base_param_settings=self.optim_wrapper.base_param_settings)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load this rank's shard of the state from :meth:`optim_state_dict`."""
        state_dict = dict(state_dict)
        settings = state_dict.pop('base_param_settings', self.optim_wrapper.base_param_settings)
        named = _renamed(state_dict, dict(enumerate(self._names())))
        # The parent's method passes arguments in the order of PyTorch 2.0.
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=named
            )
        )
        self.optim_wrapper.base_param_settings = settings

    def _names(self) -> list[str]:
        """Names of the optimizer's parameters, in its order."""
        names = {
            param: name.replace('_fsdp_wrapped_module.', '')
            for name, param in self.model.module.named_parameters()
        }
        return [
            names[param]
            for group in self.optim_wrapper.optimizer.param_groups
            for param in group['params']
        ]


def _renamed(state: dict, names: dict[Any, Any]) -> dict:
    """Rename the keys of the parameters in an optimizer's state."""
    groups = [
        dict(group, params=[names[key] for key in group['params']])
        for group in state['param_groups']
    ]
    return dict(
        state,
        state={names[key]: value for key, value in state['state'].items()},
        param_groups=groups,
    )


@torch.no_grad()
def _average(param: nn.Parameter) -> None:
    all_reduce_sum(param.grad).div_(world_size())
