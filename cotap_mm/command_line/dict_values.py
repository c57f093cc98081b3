"""Dicts as values on the command line: ``dict(a=1, b=[2, 3])`` or ``{'a': 1}``."""

from __future__ import annotations

import ast
from typing import Any


def is_dict(text: str) -> bool:
    """Whether a value of the command line is meant as a dict."""
    text = text.strip()
    return text.startswith('dict(') and text.endswith(')') or text.startswith('{')


def parse_dict(text: str) -> dict[str, Any]:
    """Parse a dict of literals; no code is run.

    Args:
        text (str): Such as ``dict(embed_dims=192, num_layers=4)`` or ``{'embed_dims': 192}``.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        value = _value(ast.parse(text.strip(), mode='eval').body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f'expected a dict of numbers, strings, lists and dicts, such as '
            f"dict(embed_dims=192, act='gelu'), got {text!r}"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f'expected a dict such as dict(embed_dims=192), got {text!r}')
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            raise ValueError('only dict(key=value) can be called')
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError('** is not a literal')
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError('keys must be strings')
        return dict(zip(keys, map(_value, node.values)))  # type: ignore[arg-type]
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    return ast.literal_eval(node)
