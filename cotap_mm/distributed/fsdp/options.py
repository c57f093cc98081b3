"""Options of the strategy: which version they choose, and which ones cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

import torch

from .parameters import HAS_FULLY_SHARD

#: Options of MMEngine's strategy that only version 1 has.
_ONLY_WRAPPED = ('model_wrapper', 'activation_checkpointing')
_PRECISION = 'layers would get weights and inputs of different dtypes; use --amp instead'
#: Options of MMEngine and PyTorch that cannot work: dotted key -> reason and remedy.
_REFUSED = {
    'state_dict_cfg': 'checkpoints always have the format of runs without FSDP; remove it',
    'skip_init_weights': 'training would start from uninitialized memory; remove it',
    'env_kwargs': 'it would replace launcher and seed of the run; set env_cfg and randomness',
    'mixed_precision': _PRECISION,
    'mp_policy': _PRECISION,
    'model_wrapper.mixed_precision.param_dtype': _PRECISION,
    'model_wrapper.mixed_precision.buffer_dtype': _PRECISION,
    'model_wrapper.use_orig_params': 'the optimizer needs the single parameters; remove it',
    'model_wrapper.ignored_modules': 'the strategy chooses the parts to replicate; remove it',
}
#: Values of these options that change nothing, besides None.
_HARMLESS = {'skip_init_weights': False, 'model_wrapper.use_orig_params': True}


def refused_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Find options that cannot work.

    Args:
        options (Mapping[str, Any]): Arguments of the strategy, as in a config.

    Returns:
        dict[str, str]: Dotted key -> sentence with the value, the reason and the remedy.
    """
    return {
        key: f'strategy.{key}={value!r} is not supported: {_REFUSED[key]}'
        for key, value in _dotted(options)
        if key in _REFUSED and value is not None and value is not _HARMLESS.get(key)
    }


def config_errors(options: Mapping[str, Any]) -> dict[str, str]:
    """Find options that cannot work, and a version that cannot be chosen.

    Args:
        options (Mapping[str, Any]): Arguments of the strategy, as in a config.

    Returns:
        dict[str, str]: As :func:`refused_options`.
    """
    found = refused_options(options)
    try:
        strategy_version(options)
    except ValueError as error:
        found['version'] = str(error)
    return found


def _dotted(options: Mapping[str, Any], start: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        yield start + name, value
        if isinstance(value, Mapping):
            yield from _dotted(value, f'{start}{name}.')


def strategy_version(options: Optional[Mapping[str, Any]] = None) -> int:
    """Version of :class:`CoTAPFSDPStrategy` that options choose.

    Args:
        options (Mapping[str, Any], optional): Arguments of the strategy. Defaults to None.

    Returns:
        int: 1 or 2.

    Raises:
        ValueError: If the version is unknown, not supported by this PyTorch, or lacks an option.
    """
    options = options or {}
    version = options.get('version')
    only_wrapped = [name for name in _ONLY_WRAPPED if options.get(name) is not None]
    if version is None:
        return 2 if HAS_FULLY_SHARD and not only_wrapped else 1
    if version not in (1, 2):
        raise ValueError(f'strategy.version must be 1 or 2, got {version!r}')
    if version == 2 and not HAS_FULLY_SHARD:
        raise ValueError(
            f'strategy.version=2 requires PyTorch 2.7, this is {torch.__version__}; '
            'use strategy.version=1'
        )
    if version == 2 and only_wrapped:
        raise ValueError(
            f'strategy.{only_wrapped[0]} is an option of strategy.version=1; remove one of the two'
        )
    return version
