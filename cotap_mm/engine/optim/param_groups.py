"""Parameter groups of CoTAP: higher learning rate for heads, no weight decay on vectors."""

from __future__ import annotations

from typing import Optional

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from cotap_mm.distributed.fsdp import original_ndim
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class CoTAPOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build up to four groups: heads and other parts, each with and without weight decay.

    Biases and one-dimensional parameters have no weight decay; cls_token, pos_embed and
    prototypes do. Heads have ``head_lr_mult`` times the base learning rate.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper.
        paramwise_cfg (dict, optional): ``head_lr_mult`` (float), 10 by default.

    Raises:
        ValueError: If ``paramwise_cfg`` has an unknown key.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.head_lr_mult = paramwise_cfg.pop('head_lr_mult', 10.0)
        if paramwise_cfg:
            raise ValueError(
                'paramwise_cfg of CoTAPOptimWrapperConstructor accepts only head_lr_mult, '
                f'got {sorted(paramwise_cfg)}'
            )
        super().__init__(optim_wrapper_cfg, None)
        # A non-empty value makes the parent call add_params, which builds the groups.
        self.paramwise_cfg = dict(head_lr_mult=self.head_lr_mult)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer; Adam and AdamW are fused if all parameters are on a GPU."""
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
