"""Parameter groups of CoTAP: higher learning rate for heads, no weight decay on vectors."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from cotap_mm.distributed.fsdp import original_shape
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS
from cotap_mm.rules import check_rules, number, whole

from .fused import choose_fused, keep_implementation
from .wrappers import MixedPrecisionOptimWrapper

_DEFAULTS = dict(head_lr_mult=10.0, layer_decay_rate=1.0, freeze_backbone_iters=0)
_RULES = dict(
    head_lr_mult=number(0),
    layer_decay_rate=number(0, 1, above=True),
    freeze_backbone_iters=whole(0),
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class CoTAPOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build groups of heads and of other parts, each with and without weight decay.

    Biases and one-dimensional parameters have no weight decay; cls_token, pos_embed and
    prototypes do. Heads have ``head_lr_mult`` times the base learning rate.

    Two options protect a good backbone, and split its groups. They need a
    :class:`MixedPrecisionOptimWrapper`:

    * ``layer_decay_rate``: the parameter at depth i of n has ``layer_decay_rate ** (n - 1 - i)``
      times the learning rate of the backbone, at each point of its schedule. Filter and heads,
      which are new, keep theirs.
    * ``freeze_backbone_iters``: first iterations in which only filter and heads are trained.
      Gradients of the backbone are computed and discarded, so a step costs the same.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; layer-wise rates: BEiT,
    https://arxiv.org/abs/2106.08254.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper.
        paramwise_cfg (dict, optional): ``head_lr_mult`` (float), 10 by default;
            ``layer_decay_rate`` (float) in (0, 1], 1 by default; ``freeze_backbone_iters`` (int),
            0 by default.

    Raises:
        ValueError: If ``paramwise_cfg`` has an unknown key or a wrong value, or the optimizer
            wrapper does not support its options.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None) -> None:
        options = {**_DEFAULTS, **(paramwise_cfg or {})}
        unknown = sorted(set(options) - set(_DEFAULTS))
        if unknown:
            raise ValueError(
                f'paramwise_cfg of CoTAPOptimWrapperConstructor accepts {", ".join(_DEFAULTS)}, '
                f'got {", ".join(unknown)}'
            )
        check_rules(options, _RULES)
        self.head_lr_mult = options['head_lr_mult']
        self.layer_decay_rate = options['layer_decay_rate']
        self.freeze_iters = options['freeze_backbone_iters']
        super().__init__(optim_wrapper_cfg, None)
        # A non-empty value makes the parent call add_params, which builds the groups.
        self.paramwise_cfg = dict(head_lr_mult=self.head_lr_mult)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer; Adam and AdamW are fused where possible, see :mod:`.fused`."""
        if choose_fused(self.optimizer_cfg, model):
            self.optimizer_cfg['fused'] = True
        wrapper = super().__call__(model)
        optimizer = getattr(wrapper, 'optimizer', None)
        if optimizer is not None:
            keep_implementation(optimizer)
        if self._protects and not isinstance(wrapper, MixedPrecisionOptimWrapper):
            raise ValueError(
                'layer_decay_rate and freeze_backbone_iters need optim_wrapper.type='
                f"'MixedPrecisionOptimWrapper', got {type(wrapper).__name__}"
            )
        return wrapper

    @property
    def _protects(self) -> bool:
        """Whether an option for the backbone is set."""
        return self.layer_decay_rate != 1 or self.freeze_iters > 0

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module=None
    ) -> None:
        """Sort the trainable parameters of ``module`` into groups; at most four by default."""
        model = unwrap(module)
        groups: dict[tuple, dict] = {}
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            is_head = name.startswith('head.')
            decays = len(original_shape(param)) > 1 and not name.endswith('.bias')
            options = self._of_backbone(model, name)
            key = (is_head, decays, *sorted(options.items()))
            group = groups.setdefault(key, dict(options, params=[]))
            group['params'].append(param)
            if is_head:
                group['lr'] = self.base_lr * self.head_lr_mult
            if not decays:
                group['weight_decay'] = 0.0
        params.extend(groups.values())

    def _of_backbone(self, model: nn.Module, name: str) -> dict[str, Any]:
        """Options of the group of a parameter, for :meth:`MixedPrecisionOptimWrapper.step`."""
        if not self._protects or not name.startswith('backbone.'):
            return {}
        name = name.replace('_fsdp_wrapped_module.', '')
        depth, count = model.backbone.get_layer_depth(name, 'backbone.')
        scale = self.layer_decay_rate ** (count - 1 - depth)
        return dict(lr_scale=scale, freeze_iters=self.freeze_iters)
