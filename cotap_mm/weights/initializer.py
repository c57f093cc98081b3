"""``init_cfg=dict(type='PretrainedViT', checkpoint=...)`` for any OpenMMLab config."""

from __future__ import annotations

from typing import Any, Callable, Optional

from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from torch import nn

from cotap_mm.deprecation import warn_renamed
from cotap_mm.registry import WEIGHT_INITIALIZERS
from cotap_mm.rules import FLAG, check_arguments

from .checkpoint import (
    AnyCheckpoint,
    DetectedCheckpoint,
    checkpoint_name,
    detect_checkpoint,
)
from .loading import load_pretrained

_NAMES = ('PretrainedViT', 'cotap_mm.PretrainedViT')


@WEIGHT_INITIALIZERS.register_module(name='PretrainedViT')
class PretrainedViT:
    """Initialize a model from a checkpoint of any source.

    Loaded weights survive ``init_weights()`` in two ways. CoTAP and DINOViT call
    :func:`init_then_load`. For other modules (``mmpretrain.VisionTransformer``), whose
    own initialization would run afterwards and overwrite the weights, the module is
    marked like modules that ``Pretrained`` of MMEngine and MMPretrain has loaded.

    Args:
        checkpoint (str | Path | dict | DetectedCheckpoint): See
            :func:`cotap_mm.weights.load_pretrained`, also for the other arguments.
        source (str): Defaults to ``'auto'``.
        network (str, optional): ``'student'`` or ``'teacher'``.
        trust (bool): Defaults to False.
        resize_patches (bool): Defaults to False.
        branch (str, optional): Deprecated name of ``network``. It is part of the signature,
            since configs are checked against it.
    """

    @check_arguments(trust=FLAG, resize_patches=FLAG)
    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        source: str = 'auto',
        network: Optional[str] = None,
        trust: bool = False,
        resize_patches: bool = False,
        branch: Optional[str] = None,
    ) -> None:
        if branch is not None:
            warn_renamed('branch=', 'network=', stacklevel=4)  # behind check_arguments
            network = branch
        self.checkpoint = checkpoint
        self.options: dict[str, Any] = dict(source=source, network=network, trust=trust)
        self.resize_patches = resize_patches

    def __call__(self, module: nn.Module) -> None:
        """Load into ``module``, and prevent its own initialization from overwriting that."""
        self.load(module)
        for child in module.modules():
            if child is not module and isinstance(child, BaseModule):
                child._is_init = True
        # MMPretrain's ViT checks for this type before it draws new position embeddings.
        module.init_cfg = dict(type='Pretrained', checkpoint=str(self))

    def detect(self) -> DetectedCheckpoint:
        """Read and detect the checkpoint, to hand it on; see :func:`detect_checkpoint`."""
        return detect_checkpoint(self.checkpoint, **self.options)

    def load(self, module: nn.Module) -> None:
        """Load into ``module`` and log what happened."""
        report = load_pretrained(
            module, self.checkpoint, **self.options, resize_patches=self.resize_patches
        )
        print_log(f'{self}: {report}', logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'PretrainedViT: loaded from {self}')

    def __str__(self) -> str:
        return checkpoint_name(self.checkpoint)


def init_then_load(module: nn.Module, default_init: Callable[[], None]) -> bool:
    """Initialize a module, then load the weights that its ``init_cfg`` names.

    Except for its own ``Pretrained``, MMEngine runs the initializers of a module before those
    of its children, which would overwrite the loaded weights. Therefore a module that
    accepts :class:`PretrainedViT` calls this function from its ``init_weights``.

    Args:
        module (nn.Module): Module with an ``init_cfg``.
        default_init (Callable): Initialization without pretrained weights.

    Returns:
        bool: Whether weights were loaded.
    """
    stated = module.init_cfg
    wanted = pretrained_configs(stated)
    if not wanted:
        # Unchanged, not as a list: MMPretrain's ViT checks for a dict of type 'Pretrained'
        # before it draws new position embeddings.
        default_init()
        return False
    module.init_cfg = [cfg for cfg in _listed(stated) if not _is_ours(cfg)]
    try:
        default_init()
    finally:
        module.init_cfg = stated
    for cfg in wanted:
        make_initializer(cfg).load(module)
        if isinstance(cfg['checkpoint'], DetectedCheckpoint) and cfg['checkpoint'].is_stored:
            cfg['checkpoint'] = cfg['checkpoint'].name  # free the memory
    return True


def pretrained_configs(init_cfg: Any) -> list[dict[str, Any]]:
    """Find the configs of :class:`PretrainedViT` in an ``init_cfg``.

    Args:
        init_cfg (dict | list[dict], optional): Of a model or a part of it.

    Returns:
        list[dict]: The configs themselves, not copies.
    """
    return [cfg for cfg in _listed(init_cfg) if _is_ours(cfg)]


def make_initializer(cfg: dict[str, Any]) -> PretrainedViT:
    """Build the initializer of a config that :func:`pretrained_configs` has found."""
    return PretrainedViT(**{key: value for key, value in cfg.items() if key != 'type'})


def _listed(init_cfg: Any) -> list[dict[str, Any]]:
    if isinstance(init_cfg, (list, tuple)):
        return list(init_cfg)
    return [init_cfg] if init_cfg else []


def _is_ours(cfg: dict[str, Any]) -> bool:
    return cfg['type'] in _NAMES or cfg['type'] is PretrainedViT
