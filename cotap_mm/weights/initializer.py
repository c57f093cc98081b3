"""``init_cfg=dict(type='PretrainedViT', checkpoint=...)`` for any OpenMMLab config."""

from __future__ import annotations

from typing import Callable, Optional

from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from torch import nn

from cotap_mm.registry import WEIGHT_INITIALIZERS

from .loading import load_pretrained
from .reading import Checkpoint

_NAMES = ('PretrainedViT', 'cotap_mm.PretrainedViT')


@WEIGHT_INITIALIZERS.register_module(name='PretrainedViT')
class PretrainedViT:
    """Initialise a model from a checkpoint of any source.

    Loaded weights survive ``init_weights()`` in two ways. CoTAP and DINOViT call
    :func:`init_then_load`. For other modules (``mmpretrain.VisionTransformer``), whose
    own initialisation would run after this one and overwrite the weights, the module
    is marked the way MMEngine and MMPretrain mark what their ``Pretrained`` has loaded.

    Args:
        checkpoint (str | Path | dict): See :func:`cotap_mm.weights.load_pretrained`,
            also for the other arguments.
        source (str): Defaults to ``'auto'``.
        branch (str, optional): ``'student'`` or ``'teacher'``.
        trust (bool): Defaults to False.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: str = 'auto',
        branch: Optional[str] = None,
        trust: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.options = dict(source=source, branch=branch, trust=trust)

    def __call__(self, module: nn.Module) -> None:
        """Load into ``module`` before its own initialisation, and prevent the latter."""
        self.load(module)
        for child in module.modules():
            if child is not module and isinstance(child, BaseModule):
                child._is_init = True
        # MMPretrain's ViT asks for this type before it draws new position embeddings.
        module.init_cfg = dict(type='Pretrained', checkpoint=str(self))

    def load(self, module: nn.Module) -> None:
        """Load into ``module`` and log what happened."""
        report = load_pretrained(module, self.checkpoint, **self.options)
        print_log(f'{self}: {report}', logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'PretrainedViT: loaded from {self}')

    def __str__(self) -> str:
        return 'state dict' if isinstance(self.checkpoint, dict) else str(self.checkpoint)


def init_then_load(module: nn.Module, default_init: Callable[[], None]) -> bool:
    """Initialise a module, then load what its ``init_cfg`` asks for.

    MMEngine runs initialisers of other types than its own ``Pretrained`` before those
    of the children, which would overwrite the loaded weights; a module that accepts
    :class:`PretrainedViT` calls this from its ``init_weights``.

    Args:
        module (nn.Module): With an ``init_cfg``.
        default_init (Callable): The initialisation without pretrained weights.

    Returns:
        bool: Whether weights were loaded.
    """
    stated = module.init_cfg
    configs = stated if isinstance(stated, (list, tuple)) else [stated] if stated else []
    wanted = [cfg for cfg in configs if cfg['type'] in _NAMES or cfg['type'] is PretrainedViT]
    if not wanted:
        # As stated, not as a list: MMPretrain's ViT looks for a dict of type 'Pretrained'
        # before it draws new position embeddings.
        default_init()
        return False
    module.init_cfg = [cfg for cfg in configs if cfg not in wanted]
    try:
        default_init()
    finally:
        module.init_cfg = stated
    for cfg in wanted:
        PretrainedViT(**{key: value for key, value in cfg.items() if key != 'type'}).load(module)
    return True
