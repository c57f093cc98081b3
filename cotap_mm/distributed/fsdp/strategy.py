"""The strategies with which MMEngine's FlexibleRunner trains a sharded CoTAP.

For ViT-L and larger. Backbone and heads are sharded: they are the largest parts, and the student's
have gradients and the optimizer's two moments.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Optional

import torch
from mmengine._strategy import DDPStrategy, FSDPStrategy
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
)
from torch.optim import Optimizer

from cotap_mm.distributed.collectives import all_reduce_sum, broadcast, rank, world_size
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import STRATEGIES

from .options import config_errors, refused_options, strategy_version
from .parameters import as_checkpoint, full_state_dict, plain_parameters
from .shards import gathered, optimized_shards, own_rows, shard_model, sharded_loading

#: Parts of CoTAP that are replicated on every rank.
_REPLICATED = (
    'neck',
    'anchor',
    'losses',
    'pairs',
    'patch_queue',
    'cls_queue',
    'template_bank',
    'data_preprocessor',
)
#: Options that a config must not set, but the Runner does.
_OF_RUNNER = ('env_kwargs',)


@STRATEGIES.register_module()
class CoTAPFSDPStrategy(FSDPStrategy):
    """MMEngine's FSDPStrategy for :class:`CoTAP`, which FlexibleRunner uses.

    ``strategy=dict(type='cotap_mm.CoTAPFSDPStrategy')`` in a config is all that is needed. Each
    block except the last one, which the filter reads, is an FSDP unit. Checkpoints have the
    format of any other run: a run may be resumed with or without the strategy, by either version,
    and on another number of ranks.

    Version 2 uses PyTorch's ``fully_shard``. It also shards the teacher, whose update needs no
    communication, and supports ``optim_wrapper.clip_grad`` and :class:`EvaluationHook`.

    Args:
        version (int, optional): 2, or 1 for PyTorch's older ``FullyShardedDataParallel``, with
            which the teacher is replicated. Defaults to None: 2 if PyTorch has what it needs
            (2.7 or later) and no option of version 1 is set.
        **kwargs (dict): Arguments of MMEngine's FSDPStrategy except those of
            :func:`.refused_options`; ``model_wrapper`` and ``activation_checkpointing`` belong to
            version 1.

    Raises:
        ValueError: If the version is unknown, not supported by this PyTorch or does not have an
            option, or the model or the optimizer needs full gradients or parts of blocks.
    """

    #: For the check of a config.
    refused_options = staticmethod(config_errors)

    def __new__(cls, version: Optional[int] = None, **kwargs: Any) -> CoTAPFSDPStrategy:
        """Choose the class of the version."""
        if cls is not CoTAPFSDPStrategy:
            return super().__new__(cls)
        return super().__new__(_VERSIONS[strategy_version(dict(kwargs, version=version))])

    def __init__(self, version: Optional[int] = None, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if name not in _OF_RUNNER}
        for sentence in refused_options(given).values():
            raise ValueError(sentence)
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
        if not hasattr(model, 'teacher'):
            raise ValueError(
                f'CoTAPFSDPStrategy shards the networks of CoTAP, got {type(model).__name__}; '
                'remove strategy'
            )
        if model.backbone.with_cp == 'mlp':
            raise ValueError(
                "model.backbone.with_cp='mlp' reads parts of a block, but FSDP "
                'gathers complete blocks; use with_cp=True'
            )
        model = model.to(get_device())
        for tensor in (*model.parameters(), *model.buffers()):
            broadcast(tensor.data)
        return self._shard(model)

    def _shard(self, model: nn.Module) -> nn.Module:
        raise NotImplementedError

    def load_checkpoint(
        self, filename: str, *, callback: Optional[Callable[[dict], None]] = None, **kwargs: Any
    ) -> dict:
        """Load weights as a run without FSDP does, which also accepts a bare state dict.

        Args:
            filename (str): A checkpoint, or only its state dict; names may start with ``module.``.
            callback (callable, optional): Called with the loaded file, which it may change.
            **kwargs: Arguments of the parent.

        Returns:
            dict: The checkpoint without its state dict.
        """

        def complete(checkpoint: dict) -> None:
            if callback is not None:
                callback(checkpoint)
            as_checkpoint(checkpoint)

        return super().load_checkpoint(filename, callback=complete, **kwargs)

    def build_optim_wrapper(self, optim_wrapper, model=None):
        """Build the wrapper, and average the gradients of the filter, which FSDP ignores.

        Args:
            optim_wrapper (dict | OptimWrapper): Config or wrapper.
            model (nn.Module, optional): Sharded model. Defaults to None.

        Returns:
            OptimWrapper: The wrapper.

        Raises:
            ValueError: If gradient clipping or float16 is requested and not supported.
        """
        built = self._built(optim_wrapper, model)
        if getattr(built, 'cast_dtype', None) is torch.float16:
            raise ValueError(
                'float16 with FSDP is not supported; use '
                "optim_wrapper.dtype='bfloat16' or 'float32'"
            )
        self._check_clipping(built)
        built.is_sharded = True
        for param in unwrap(model).neck.parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(_average)
        return built

    def _built(self, optim_wrapper, model):
        return super().build_optim_wrapper(optim_wrapper, model)

    def _check_clipping(self, wrapper) -> None:
        raise NotImplementedError


class WrappedStrategy(CoTAPFSDPStrategy):
    """Version 1: ``FullyShardedDataParallel``, whose units have flat parameters."""

    def _shard(self, model: nn.Module) -> nn.Module:
        for param in model.parameters():
            param.original_shape = param.shape
        units = set(_units(model))
        on_gpu = torch.cuda.is_available()
        self.model_wrapper = {
            'type': 'MMFullyShardedDataParallel',
            'use_orig_params': True,
            'device_id': torch.cuda.current_device() if on_gpu else torch.device('cpu'),
            'auto_wrap_policy': lambda module, recurse, **_: recurse or module in units,
            'ignored_modules': [model.teacher, *_replicated(model)],
            **(self.model_wrapper or {}),
        }
        return FSDPStrategy._wrap_model(self, model)

    def _check_clipping(self, wrapper) -> None:
        if wrapper.clip_grad_kwargs:
            raise ValueError(
                'optim_wrapper.clip_grad needs full gradients, but FSDP shards '
                'them across ranks; remove it or the strategy'
            )

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

    def load_model_state_dict(self, state_dict: dict, *, strict: bool = False, **kwargs) -> None:
        """Load this rank's part of a state dict of the model without FSDP.

        Args:
            state_dict (dict): Complete, and the same on all ranks.
            strict (bool): Whether all names and shapes must agree; others are skipped with a
                warning, as without FSDP. Defaults to False.
            **kwargs: Ignored, as by the parent.
        """
        try:
            super().load_model_state_dict(state_dict, strict=strict)
        except RuntimeError as error:  # PyTorch raises it after it has loaded the others
            reasons = str(error).splitlines()[1:]
            if strict or not reasons or any('size mismatch' not in line for line in reasons):
                raise
            print_log(str(error), logger='current', level=logging.WARNING)

    def _names(self) -> list[str]:
        """Names of the optimizer's parameters, in its order."""
        names = {param: name for name, param in plain_parameters(self.model).items()}
        return [
            names[param]
            for group in self.optim_wrapper.optimizer.param_groups
            for param in group['params']
        ]


class FullyShardedStrategy(CoTAPFSDPStrategy):
    """Version 2: ``fully_shard``, with each parameter sharded by itself, and the teacher, too."""

    def _shard(self, model: nn.Module) -> nn.Module:
        units = [*_units(model), *_units(model.teacher)]
        shard_model(model, units, [model.teacher.neck, *_replicated(model)])
        return model

    def _built(self, optim_wrapper, model):
        """Build the wrapper as for a model that is not sharded, and give it this rank's shards."""
        names = {param: name for name, param in model.named_parameters()}
        if isinstance(optim_wrapper, Optimizer):
            optim_wrapper = OptimWrapper(optim_wrapper)
        if not isinstance(optim_wrapper, BaseOptimWrapper):
            optim_wrapper = DDPStrategy.build_optim_wrapper(self, optim_wrapper, model)
        shards = optimized_shards(model)
        for group in optim_wrapper.optimizer.param_groups:
            group['params'] = [
                shards[names[param] if param in names else self.id_to_name[id(param)]]
                for param in group['params']
            ]
        return optim_wrapper

    def _check_clipping(self, wrapper) -> None:
        if wrapper.clip_grad_kwargs and not hasattr(wrapper, 'is_sharded'):
            raise ValueError(
                'optim_wrapper.clip_grad with FSDP needs optim_wrapper.type='
                f"'cotap_mm.MixedPrecisionOptimWrapper', got {type(wrapper).__name__}"
            )

    def model_state_dict(self) -> dict:
        """State dict of the model without FSDP; on ranks other than 0, without sharded weights."""
        return full_state_dict(self.model)

    def load_model_state_dict(self, state_dict: dict, *, strict: bool = False, **kwargs) -> None:
        """Load this rank's shards of the state from :meth:`model_state_dict`.

        Args:
            state_dict (dict): Complete, and the same on all ranks.
            strict (bool): Whether all names and shapes must agree; others are skipped with a
                warning, as without FSDP. Defaults to False.
            **kwargs: Ignored, as by the parent.
        """
        with sharded_loading(self.model):
            load_state_dict(self.model, state_dict, strict, 'current')

    def optim_state_dict(self) -> dict:
        """Optimizer state in the format of a run without FSDP; empty on ranks other than 0."""
        state = self.optim_wrapper.state_dict()
        params = self._params()
        entries = {
            key: {name: gathered(value, params[key]) for name, value in entry.items()}
            for key, entry in state['state'].items()
        }
        return dict(state, state=entries) if rank() == 0 else {}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load this rank's shards of the state from :meth:`optim_state_dict`."""
        params = self._params()
        entries = {
            key: {name: own_rows(value, params[key]) for name, value in entry.items()}
            for key, entry in state_dict['state'].items()
        }
        self.optim_wrapper.load_state_dict(dict(state_dict, state=entries))

    def _params(self) -> list[nn.Parameter]:
        groups = self.optim_wrapper.optimizer.param_groups
        return [param for group in groups for param in group['params']]


#: Option ``version`` -> strategy.
_VERSIONS = {1: WrappedStrategy, 2: FullyShardedStrategy}


def _units(net) -> list[nn.Module]:
    """Parts of a network that are gathered only while they run."""
    return [*net.backbone.layers[:-1], *net.head.children()]


def _replicated(model) -> list[nn.Module]:
    return [part for part in (getattr(model, name) for name in _REPLICATED) if part is not None]


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
