"""Initial weights: read once before a run, and handed on to all that start from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from torch import nn

from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.backbones import find_backbones
from cotap_mm.weights import DetectedCheckpoint
from cotap_mm.weights.initializer import make_initializer, pretrained_configs


class InitialWeights:
    """Checkpoints that the parts of a model start from.

    Each file is read and detected when it is first asked for.
    """

    def __init__(self) -> None:
        self._detected: dict[str, DetectedCheckpoint] = {}

    def detect(self, part: dict[str, Any]) -> Optional[DetectedCheckpoint]:
        """Read the checkpoint of a model or backbone.

        Args:
            part (dict): Config with or without an ``init_cfg``.

        Returns:
            DetectedCheckpoint: None if ``init_cfg`` names no :class:`.PretrainedViT`.

        Raises:
            FileNotFoundError: If the file does not exist, or the download fails.
            ValueError: If the file is unsafe, damaged, or has no ViT.
        """
        detected = None
        for cfg in pretrained_configs(part.get('init_cfg')):
            detected = self._of(cfg)
        return detected

    def hand_on(self, model: nn.Module | dict[str, Any]) -> None:
        """Replace paths by what was read from them.

        Args:
            model (nn.Module | dict): Model before ``init_weights``, or the config that it will
                be built from.
        """
        for part in _parts(model):
            for cfg in pretrained_configs(part):
                if _key(cfg) in self._detected:
                    cfg['checkpoint'] = self._detected[_key(cfg)]

    def _of(self, cfg: dict[str, Any]) -> DetectedCheckpoint:
        key = _key(cfg)
        if key not in self._detected:
            self._detected[key] = make_initializer(cfg).detect()
        return self._detected[key]


def _key(cfg: dict[str, Any]) -> str:
    """Identify a checkpoint and how to read it."""
    return repr(sorted((key, str(value)) for key, value in cfg.items() if key != 'type'))


def _parts(model: nn.Module | dict[str, Any]) -> Iterator[Any]:
    """Every ``init_cfg`` of a model."""
    if isinstance(model, dict):
        for part in (model, *find_backbones(model)):
            yield part.get('init_cfg')
    else:
        for module in unwrap(model).modules():
            yield getattr(module, 'init_cfg', None)
