"""Find and read a config file."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from cotap_mm.deprecation import warn_renamed
from cotap_mm.error_text import sentence_of

from .arguments import nearest
from .config_names import FOLDERS, PARENTS, shipped_configs

# MMEngine's error for a dict over another value: key, and type of the value.
_DICT_OVER_VALUE = r"(\w+)=.* cannot inherit from base because .* of type <class '(?:\w+\.)*(\w+)'>"


def load_config(name: str, needs_model: bool = True) -> Config:
    """Read a config by its path, or by path or name within the installed package.

    Args:
        name (str): Path or name, e.g. ``configs/cotap/vits_folder.py`` or ``vits_folder``.
        needs_model (bool): Whether to refuse a config without a model. Defaults to True.

    Returns:
        Config: The config; its default scope is active.

    Raises:
        FileNotFoundError: If it does not exist; the message lists the shipped configs.
        ValueError: If it is not a config, or has no model although one is needed.
    """
    candidates = [Path(name), *(top / name for top in PARENTS)]
    if Path(name).name == name:
        candidates += [
            top / 'configs' / folder / f'{Path(name).stem}.py'
            for top in PARENTS
            for folder in FOLDERS
        ]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        if Path(name).is_dir():
            raise ValueError(f'the config must be a file, got the folder {name}')
        known = shipped_configs()
        suggestion = nearest(Path(name).stem, [stem for stems in known.values() for stem in stems])
        raise FileNotFoundError(
            f'config {name} does not exist{suggestion}; the shipped configs are '
            + ' and '.join(
                f'configs/{folder}/{{{", ".join(names)}}}.py' for folder, names in known.items()
            )
        )
    config = _read(path)
    if 'renamed' in config:  # left by a config whose only content is its new name
        warn_renamed(*config.pop('renamed'))
    if needs_model and 'model' not in config:
        raise ValueError(f'config {name} sets no model; start from one of configs/cotap')
    init_default_scope(config.get('default_scope', 'cotap_mm'))
    return config


def _read(path: Path) -> Config:
    """Read a config file; as it is Python code, it may fail with any error."""
    if path.suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise ValueError(f'the config must be a file *.py, *.json or *.yaml, got {path}')
    try:
        return Config.fromfile(path)
    except FileNotFoundError:  # of _base_
        raise
    except Exception as error:
        clash = re.match(_DICT_OVER_VALUE, str(error), re.DOTALL)
        if clash:
            raise ValueError(
                f'config {path}: {clash[1]} is a dict here, but not in its base ({clash[2]}); to '
                f'replace it, write {clash[1]}=dict(_delete_=True, ...)'
            ) from error
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == path.resolve()
        ]
        where = f' (line {lines[-1]})' if lines else ''
        raise ValueError(
            f'config {path} cannot be read: {type(error).__name__}: {sentence_of(error)}{where}'
        ) from error
