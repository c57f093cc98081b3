"""``init_cfg=dict(type='PretrainedViT', checkpoint=...)`` for any OpenMMLab config."""
from typing import Callable, Optional

from mmengine.logging import print_log
from torch import nn

from cotap_mm.registry import WEIGHT_INITIALIZERS

from .loading import load_pretrained
from .reading import Checkpoint

_NAMES = ('PretrainedViT', 'cotap_mm.PretrainedViT')


@WEIGHT_INITIALIZERS.register_module(name='PretrainedViT')
class PretrainedViT:
    """Initialise a model from a checkpoint of any source.

    Args:
        checkpoint (str | Path | dict): See :func:`cotap_mm.weights.load_pretrained`,
            also for the other arguments.
        source (str): Defaults to ``'auto'``.
        branch (str, optional): ``'student'`` or ``'teacher'``.
        trust (bool): Defaults to False.
    """

    def __init__(self, checkpoint: Checkpoint, source: str = 'auto',
                 branch: Optional[str] = None, trust: bool = False) -> None:
        self.checkpoint = checkpoint
        self.options = dict(source=source, branch=branch, trust=trust)

    def __call__(self, module: nn.Module) -> None:
        """Load into ``module`` and log what happened."""
        report = load_pretrained(module, self.checkpoint, **self.options)
        print_log(f'{self.checkpoint if not isinstance(self.checkpoint, dict) else "state dict"}: '
                  f'{report}', logger='current')


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
    module.init_cfg = [cfg for cfg in configs if cfg not in wanted]
    try:
        default_init()
    finally:
        module.init_cfg = stated
    for cfg in wanted:
        PretrainedViT(**{key: value for key, value in cfg.items() if key != 'type'})(module)
    return bool(wanted)
