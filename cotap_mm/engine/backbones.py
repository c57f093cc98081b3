"""Find the backbones in the config of any OpenMMLab model, at any nesting depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def find_backbones(model: Any) -> list[dict[str, Any]]:
    """Find the configs of all backbones of a model that are trained or tested.

    They are under ``backbone`` of a plain model; below ``module`` of a test-time-augmentation
    or LoRA model, ``detector`` of a semi-supervised model, ``architecture`` or ``student``
    of a distiller, ``model`` of a wrapper. The fixed teacher of a distiller (any key that
    starts with ``teacher``) is skipped: it has its own weights.

    Args:
        model (dict): Config of the model.

    Returns:
        list[dict]: The configs themselves, not copies, in the order of the config. Empty if
        the model has no ``backbone``.
    """
    return list(_walk(model))


def set_backbones_init(model: Any, init_cfg: Any) -> int:
    """Set the initial weights of all backbones of a model.

    Args:
        model (dict): Config of the model; changed in place.
        init_cfg (dict, optional): Config of a weight initializer; None for random weights.

    Returns:
        int: Number of backbones.
    """
    backbones = find_backbones(model)
    for backbone in backbones:
        backbone['init_cfg'] = None if init_cfg is None else dict(init_cfg)
    return len(backbones)


def _walk(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from _walk(item)
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if str(key).startswith('teacher'):
            continue
        if key == 'backbone' and isinstance(value, dict) and 'type' in value:
            yield _unwrapped(value)
        else:
            yield from _walk(value)


def _unwrapped(backbone: dict[str, Any]) -> dict[str, Any]:
    """The network inside a wrapper such as LoRAModel(module=...)."""
    while isinstance(backbone.get('module'), dict):
        backbone = backbone['module']
    return backbone


def wrapper_and_model(model: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split a model into a test-time-augmentation wrapper and the model inside.

    Args:
        model (dict): Config of the model.

    Returns:
        tuple[str, dict]: Name of the wrapper, '' if there is none; config of the model inside.
    """
    name = str(model.get('type'))
    if 'TTA' in name.split('.')[-1] and isinstance(model.get('module'), dict):
        return name, model['module']
    return '', model
