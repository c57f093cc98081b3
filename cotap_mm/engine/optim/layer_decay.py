"""Layer-wise learning-rate decay in any OpenMMLab project."""

from __future__ import annotations

from typing import Optional

from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from torch import nn

from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS
from cotap_mm.rules import check_rules, number, or_one_of


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """Learning rates that decay from the heads to the first layers of a ViT.

    A parameter at depth i of n has ``layer_decay_rate ** (n - 1 - i)`` times the base
    learning rate. The parent class, MMPretrain's constructor, asks the model for the depth;
    segmentors and detectors do not define it, so here their backbone is asked. In a
    :class:`~cotap_mm.models.CoTAPViT`, filter and prototypes have the depth of the last
    block. Everything outside the backbone has the base learning rate.

    Source: BEiT, https://arxiv.org/abs/2106.08254.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper.
        paramwise_cfg (dict): ``layer_decay_rate`` (float), 1 by default, and MMPretrain's
            ``norm_decay_mult``, ``bias_decay_mult``, ``flat_decay_mult`` and
            ``custom_keys``.

    Raises:
        ValueError: If ``paramwise_cfg`` has an unknown key, the rate is not in (0, 1], or the
            optimizer config does not set ``weight_decay``.
    """

    _KEYS = (
        'layer_decay_rate',
        'norm_decay_mult',
        'bias_decay_mult',
        'flat_decay_mult',
        'custom_keys',
    )
    _RULES = dict(
        layer_decay_rate=number(0, 1, above=True),
        **dict.fromkeys(_KEYS[1:4], or_one_of(number(0), None)),
    )

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        unknown = sorted(set(paramwise_cfg) - set(self._KEYS))
        if unknown:
            raise ValueError(
                f'paramwise_cfg of LayerDecayOptimWrapperConstructor accepts '
                f'{", ".join(self._KEYS)}, got {", ".join(unknown)}'
            )
        paramwise_cfg.setdefault('layer_decay_rate', 1.0)
        check_rules(paramwise_cfg, self._RULES)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        if self.base_wd is None:
            raise ValueError(
                'layer-wise learning rates need an explicit weight_decay: set '
                'optim_wrapper.optimizer.weight_decay, to 0. for none'
            )

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        get_layer_depth=None,
        **kwargs,
    ) -> None:
        """Add one parameter group for each trainable parameter.

        Raises:
            TypeError: If neither the model nor its backbone has ``get_layer_depth``.
        """
        if get_layer_depth is None:
            get_layer_depth = self._depths(module)
        super().add_params(params, module, prefix, get_layer_depth, **kwargs)

    @staticmethod
    def _depths(model: nn.Module):
        model = unwrap(model)
        if hasattr(model, 'get_layer_depth'):
            return model.get_layer_depth
        backbone = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise TypeError(
                'layer-wise learning rates need a backbone with get_layer_depth, such '
                f'as cotap_mm.CoTAPViT or mmpretrain.VisionTransformer, got '
                f'{type(backbone).__name__}'
            )
        return lambda name: backbone.get_layer_depth(name, 'backbone.')
