"""Parameter groups of CoTAP: heads learn faster, and vectors do not decay."""

from __future__ import annotations

from typing import Optional

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from cotap_mm.distributed.fsdp import original_ndim
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class CoTAPOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Four groups: backbone and filter, or heads; with and without weight decay.

    No decay on biases and on one-dimensional parameters; so cls_token, pos_embed
    and prototypes do decay. Heads get ``head_lr_mult`` times the learning rate.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        optim_wrapper_cfg (dict): The optimiser wrapper's config.
        paramwise_cfg (dict, optional): ``head_lr_mult`` (float), 10 by default.

    Raises:
        ValueError: If ``paramwise_cfg`` has another key.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.head_lr_mult = paramwise_cfg.pop('head_lr_mult', 10.0)
        if paramwise_cfg:
            raise ValueError(
                'paramwise_cfg of CoTAPOptimWrapperConstructor knows head_lr_mult '
                f'only, got {sorted(paramwise_cfg)}'
            )
        super().__init__(optim_wrapper_cfg, None)
        # A non-empty value makes the parent call add_params, where the groups are made.
        self.paramwise_cfg = dict(head_lr_mult=self.head_lr_mult)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser; Adam and AdamW in one kernel where all parameters are on a GPU."""
        one_kernel = self.optimizer_cfg.get('type') in ('Adam', 'AdamW')
        if one_kernel and all(param.is_cuda for param in model.parameters()):
            self.optimizer_cfg.setdefault('fused', True)
        return super().__call__(model)

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module=None
    ) -> None:
        """Sort the trainable parameters of ``module`` into at most four groups."""
        groups: dict[tuple[bool, bool], dict] = {}
        for name, param in unwrap(module).named_parameters():
            if not param.requires_grad:
                continue
            is_head = name.startswith('head.')
            decays = original_ndim(param) > 1 and not name.endswith('.bias')
            group = groups.setdefault((is_head, decays), dict(params=[]))
            group['params'].append(param)
            if is_head:
                group['lr'] = self.base_lr * self.head_lr_mult
            if not decays:
                group['weight_decay'] = 0.0
        params.extend(groups.values())
