"""Options of ``--cfg-options``: do they refer to parts of the config, and how they replace them."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.config import Config
from mmengine.config.config import DELETE_KEY
from mmengine.runner import FlexibleRunner, Runner

from .validation import suggestion

_MISSING = object()


def check_overrides(config: Config, options: dict[str, Any]) -> None:
    """Check that command-line options refer to parts that the config has.

    Args:
        config (Config): The config before the options are merged.
        options (dict): Dotted key -> value.

    Raises:
        ValueError: Names the first wrong option, and a similar key.
    """
    known = set(config)
    for runner in (Runner, FlexibleRunner):  # the second one has a strategy
        known |= set(inspect.signature(runner.__init__).parameters) - {'self'}
    for key, value in options.items():
        first = key.split('.')[0]
        if first not in known:
            raise ValueError(
                f'--cfg-options {key}: the config has no {first!r}{suggestion(first, known)}'
            )
        index = key.split('.')[1:2]
        count = len(config.get('custom_hooks') or [])
        if first == 'custom_hooks' and index and not (index[0].isdigit() and int(index[0]) < count):
            raise ValueError(
                f'--cfg-options {key}: the config has {count} custom_hooks; the hooks '
                'of every run are in default_hooks, e.g. default_hooks.teacher.start=0.99'
            )
        part = _follow(config, key, value)
        if isinstance(part, dict) and value is not None and not isinstance(value, dict):
            raise ValueError(
                f'--cfg-options {key}: this is a dict, so set one of its keys, e.g. '
                f'{key}.{next(iter(part), "type")}, got {value!r}'
            )


def _follow(config: Config, key: str, given: Any) -> Any:
    """Value at a dotted key, which an option sets to ``given``; ``_MISSING`` if there is none.

    Raises:
        ValueError: If a value on the way has no keys.
    """
    part: Any = config
    words = key.split('.')
    for number, word in enumerate(words):
        if part is None or isinstance(part, (str, int, float)):
            whole = '.'.join(words[:number])
            raise ValueError(
                f'--cfg-options {key}={given}: {whole} is {part!r}, which has no keys; replace it '
                f'as a whole: {whole}="dict({".".join(words[number:])}=..., ...)"'
            )
        part = part.get(word, _MISSING) if isinstance(part, (dict, Config)) else _MISSING
    return part


def replacing_dicts(config: Config, options: dict[str, Any]) -> dict[str, Any]:
    """Let a dict replace a value that is not a dict, such as the name of an architecture.

    Without this, MMEngine refuses to merge them.

    Args:
        config (Config): The config before the options are merged.
        options (dict): Dotted key -> value, checked by :func:`check_overrides`.

    Returns:
        dict: The same options, with ``_delete_=True`` in such a dict.
    """
    replacing = {}
    for key, value in options.items():
        before = _follow(config, key, value)
        if isinstance(value, dict) and before is not _MISSING and not isinstance(before, dict):
            value = dict(value, **{DELETE_KEY: True})
        replacing[key] = value
    return replacing
