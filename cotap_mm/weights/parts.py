"""One of several networks in a file: ``FILE::momentum_backbone``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

SEPARATOR = '::'
_MAX_DEPTH = 6  # containers within containers


def split_part(name: str) -> tuple[str, str]:
    """``'FILE::NAME'`` as file and part; the part is ``''`` where none is named.

    A file whose own name has two colons is taken as it is.
    """
    path, separator, part = name.rpartition(SEPARATOR)
    if not separator or not path or '/' in part or Path(name).expanduser().exists():
        return name, ''
    return path, part


def tensor_groups(content: dict) -> dict[str, dict[str, Any]]:
    """All dicts in a file that hold tensors, by the dotted keys that lead to them.

    Files wrap their weights in containers of all kinds: ``state_dict``, ``model``, ``net``,
    ``checkpoint.state_dict``, ``student`` beside ``teacher``.

    Args:
        content (dict): What the file holds; it may contain itself.

    Returns:
        dict[str, dict]: Tensors and arrays by name; ``''`` is the outermost dict.
    """
    groups: dict[str, dict[str, Any]] = {}
    waiting, seen = [('', content, 0)], set()
    while waiting:
        place, current, depth = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        tensors = {
            name: value
            for name, value in current.items()
            if isinstance(name, str) and isinstance(value, (Tensor, np.ndarray))
        }
        if tensors:
            groups[place] = tensors
        if depth < _MAX_DEPTH:
            waiting.extend(
                (f'{place}.{key}'.lstrip('.'), value, depth + 1)
                for key, value in current.items()
                if isinstance(key, str) and isinstance(value, dict)
            )
    return groups


def select_part(content: dict, part: str, name: str) -> dict:
    """The tensors under a name, with the file's ``meta``.

    Args:
        content (dict): What the file holds.
        part (str): Keys and the beginning of tensor names, joined by dots, e.g.
            ``'momentum_backbone'`` or ``'model.teacher'``. Leading ones may be omitted.
        name (str): Of the file, for the message.

    Returns:
        dict: ``state_dict`` with names without the part, and ``meta``.

    Raises:
        ValueError: If nothing, or more than one part, is called so.
    """
    found: dict[str, dict[str, Any]] = {}
    known: dict[str, None] = {}
    for group, tensors in tensor_groups(content).items():
        for tensor_name, value in tensors.items():
            full = f'{group}.{tensor_name}'.lstrip('.')
            known.setdefault(full.split('.')[0])
            start = 0 if full.startswith(f'{part}.') else full.find(f'.{part}.') + 1
            if start or full.startswith(f'{part}.'):
                end = start + len(part) + 1
                found.setdefault(full[:end], {})[full[end:]] = value
    if len(found) != 1:
        what = (
            f'{len(found)} parts called {part!r}: {", ".join(key[:-1] for key in found)}'
            if found
            else f'no part called {part!r}; there are {", ".join(list(known)[:8])}'
        )
        raise ValueError(f'{name} holds {what}')
    [tensors] = found.values()
    return dict(state_dict=tensors, meta=content.get('meta'))
