"""Read the text of a training config in a checkpoint without running it."""

from __future__ import annotations

import ast
from typing import Any

_MAX_CONFIG = 1 << 20  # characters


def assignments(text: str) -> dict[str, Any]:
    """Parse the assignments of the text of a config.

    The text is untrusted, so expressions are not evaluated: constants, lists, tuples, ``{...}`` and
    ``dict(...)`` are read, and everything else becomes None.

    Args:
        text (str): Text of a config, as MMEngine stores it.

    Returns:
        dict: Name -> value, in the order of the text; empty if it is not valid Python.
    """
    # The text may have null bytes, or expressions nested without end.
    try:
        return {
            statement.targets[0].id: _literal(statement.value)
            for statement in ast.parse(text[:_MAX_CONFIG]).body
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def assignment(text: str, name: str) -> dict:
    """Parse the dict assigned to ``name``; see :func:`assignments`. Empty if there is none."""
    value = assignments(text).get(name)
    return value if isinstance(value, dict) else {}


def _literal(node: ast.AST) -> Any:
    """Evaluate a constant, a list, a tuple or a dict; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        return -value if isinstance(value, (int, float)) else None
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_literal(part) for part in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict):
        return {
            key.value: _literal(value)
            for key, value in zip(node.keys, node.values)
            if isinstance(key, ast.Constant)
        }
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {part.arg: _literal(part.value) for part in node.keywords if part.arg}
    return None
