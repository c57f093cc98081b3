"""What is known about the training of a checkpoint, without paths of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Optional

from cotap_mm.files.config_text import assignments

#: Parts of a config that describe a training; others describe the machine, logs and accounts.
_SHOWN = (
    'model',
    'train_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'auto_scale_lr',
    'strategy',
    'randomness',
)
_ABSOLUTE = re.compile(r'/|~|\\\\|[A-Za-z]:[\\/]|file:|\.\.[\\/]')  # or out of the work folder
# Names of folders that do not tell which data they hold.
_GENERIC = re.compile(
    r'(train|val|test|unlabeled)(\d{4})?|images?|img|jpegimages|jpe?gs?|data', re.I
)


@dataclass(frozen=True)
class Provenance:
    """Provenance of a network.

    Attributes:
        init (str): Initial weights: URL, name, or name of a local file; ``''`` if unknown,
            ``'none'`` for random weights.
        data (list[str]): Names of the training images of the branches.
        iterations (int | None): Completed iterations.
        epochs (int | None): Completed epochs, for a training by epochs.
        images_seen (int | None): Training samples that all GPUs together have seen.
        gpus (int | None): Number of processes.
        batch_size (int | None): Images per GPU and step.
        seed (int | None): Random seed.
        versions (dict[str, str]): Versions of the software that trained it.
        config (dict): Parts of the config that describe the training.
    """

    init: str = ''
    data: list[str] = field(default_factory=list)
    iterations: Optional[int] = None
    epochs: Optional[int] = None
    images_seen: Optional[int] = None
    gpus: Optional[int] = None
    batch_size: Optional[int] = None
    seed: Optional[int] = None
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def provenance_of(content: dict[str, Any]) -> Provenance:
    """Collect what a checkpoint states about its training.

    Its config is parsed, not run, and only the parts that describe the training are kept. Paths
    are reduced to their last part.

    Args:
        content (dict): Content of a checkpoint.

    Returns:
        Provenance: Everything that is stated; the rest has its defaults.
    """
    meta = _dict(content.get('meta'))
    state = _dict(content.get('run_state'))
    text = meta.get('cfg')
    config = assignments(text) if isinstance(text, str) else {}
    loader = _dict(config.get('train_dataloader'))
    versions = dict(_dict(meta.get('versions')))
    if isinstance(meta.get('mmengine_version'), str):
        versions.setdefault('mmengine', meta['mmengine_version'])
    return Provenance(
        init=_initial_weights(config) or _stated_origin(meta),
        data=list(dict.fromkeys(_data_names(_dict(loader.get('dataset'))))),
        iterations=_count(meta.get('iter')),
        epochs=_count(meta.get('epoch')) or None,
        images_seen=_count(state.get('samples_seen')),
        gpus=_count(state.get('world_size')),
        batch_size=_count(loader.get('batch_size')),
        seed=_count(meta.get('seed')),
        versions={str(key): str(value) for key, value in versions.items()},
        config={key: without_paths(config[key]) for key in _SHOWN if config.get(key) is not None},
    )


def without_paths(value: Any) -> Any:
    """Replace absolute paths in nested dicts and lists by their last part."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_paths(item) for item in value)
    if isinstance(value, str) and _ABSOLUTE.match(value):
        return _last(value)
    return value


def _initial_weights(config: dict[str, Any]) -> str:
    """Name the initial weights of the model or its backbone."""
    started = _dict(config.get('started_from')).get('weights')  # a run that has been resumed
    if isinstance(started, str):
        return _without_path(started)
    model = _dict(config.get('model'))
    stated = [model.get('init_cfg'), _dict(model.get('backbone')).get('init_cfg')]
    for init in stated:
        for cfg in init if isinstance(init, list) else [init]:
            checkpoint = _dict(cfg).get('checkpoint')
            if isinstance(checkpoint, str):
                return _without_path(checkpoint)
    return ''


def _stated_origin(meta: dict[str, Any]) -> str:
    """Name the initial weights that a converted or published file states."""
    stated = _dict(meta.get('derived_from')).get('weights')
    return _without_path(stated) if isinstance(stated, str) else ''


def _without_path(checkpoint: str) -> str:
    is_name = re.match(r'^(https?|cotap_mm)://|^(hf|timm|random):', checkpoint)
    return checkpoint if is_name else _last(checkpoint)


def _data_names(dataset: dict[str, Any]) -> Iterator[str]:
    """Name the images of both branches, or of a downstream data set."""
    parts = [part for key, part in dataset.items() if key in ('patch', 'cls') and _dict(part)]
    for part in parts or [dataset]:
        root = part.get('root') or part.get('data_root')
        if isinstance(root, str) and root:
            yield _data_name(root)
        elif isinstance(part.get('type'), str):
            yield part['type'].split('.')[-1]


def _data_name(root: str) -> str:
    """Name a folder: its last part, preceded by its parent if that alone says nothing.

    The parents of an absolute path are skipped, since they may name the user.
    """
    parts = [part for part in _pure(root).parts if part not in ('/', '.', '..')]
    if len(parts) > 1 and not _ABSOLUTE.match(root) and not _GENERIC.fullmatch(parts[-2]):
        return '/'.join(parts[-2:]) if _GENERIC.fullmatch(parts[-1]) else parts[-1]
    return parts[-1] if parts else 'images'


def _last(path: str) -> str:
    return _pure(path).name or 'path'


def _pure(path: str) -> Any:
    return PureWindowsPath(path) if '\\' in path else PurePosixPath(path)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
