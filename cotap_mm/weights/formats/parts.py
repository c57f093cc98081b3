"""Select one of several networks in a file: ``FILE::momentum_backbone``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

SEPARATOR = '::'
_MAX_DEPTH = 6  # nesting of containers


def split_part(name: str) -> tuple[str, str]:
    """Split ``'FILE::NAME'`` into file and part; the part is ``''`` if none is given.

    An existing file whose own name has two colons is not split.
    """
    path, separator, part = name.rpartition(SEPARATOR)
    if not separator or not path or '/' in part or Path(name).expanduser().exists():
        return name, ''
    return path, part


def tensor_groups(content: dict) -> dict[str, dict[str, Any]]:
    """Collect all dicts of a file that directly contain tensors, by their dotted keys.

    Files nest their weights in many ways: ``state_dict``, ``model``, ``net``,
    ``checkpoint.state_dict``, ``student`` and ``teacher``.

    Args:
        content (dict): Content of the file; it may contain itself.

    Returns:
        dict[str, dict]: For each dict its tensors and arrays by name; the key of the outermost
        dict is ``''``.
    """
    groups: dict[str, dict[str, Any]] = {}
    waiting, seen = [('', content, 0)], set()
    while waiting:
        path, current, depth = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        tensors = {
            name: value
            for name, value in current.items()
            if isinstance(name, str) and isinstance(value, (Tensor, np.ndarray))
        }
        if tensors:
            groups[path] = tensors
        if depth < _MAX_DEPTH:
            waiting.extend(
                (f'{path}.{key}'.lstrip('.'), value, depth + 1)
                for key, value in current.items()
                if isinstance(key, str) and isinstance(value, dict)
            )
    return groups


def select_part(content: dict, part: str, name: str) -> dict:
    """Select the tensors under a name, and the file's ``meta``.

    Args:
        content (dict): Content of the file.
        part (str): Keys and the beginning of tensor names, joined by dots, e.g.
            ``'momentum_backbone'`` or ``'model.teacher'``. Leading keys may be omitted.
        name (str): Name of the file, for messages.

    Returns:
        dict: ``state_dict`` with the part removed from the names, and ``meta``.

    Raises:
        ValueError: If the file has no part with this name, or more than one.
    """
    parts: dict[str, dict[str, Any]] = {}
    known: dict[str, None] = {}
    for group, tensors in tensor_groups(content).items():
        for tensor_name, value in tensors.items():
            full = f'{group}.{tensor_name}'.lstrip('.')
            known.setdefault(full.split('.')[0])
            start = 0 if full.startswith(f'{part}.') else full.find(f'.{part}.') + 1
            if start or full.startswith(f'{part}.'):
                end = start + len(part) + 1
                parts.setdefault(full[:end], {})[full[end:]] = value
    if len(parts) != 1:
        what = (
            f'{len(parts)} parts called {part!r}: {", ".join(key[:-1] for key in parts)}'
            if parts
            else f'no part called {part!r}; it has {", ".join(list(known)[:8])}'
        )
        raise ValueError(f'{name} has {what}')
    [tensors] = parts.values()
    return dict(state_dict=tensors, meta=content.get('meta'))
