"""Find public functions and classes that a built page of the Python API lacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def missing_names(markdown: str, html: str) -> Iterator[str]:
    """Yield the public functions and classes that a page should document, but does not.

    Args:
        markdown (str): Text of the page, whose lines ``::: PACKAGE`` name packages.
        html (str): The same page after the docstrings were inserted.

    Yields:
        str: Dotted name in the ``__all__`` of a package.
    """
    for package in re.findall(r'^::: ([\w.]+)$', markdown, re.M):
        folder = ROOT.joinpath(*package.split('.'))
        if not folder.is_dir():
            continue
        for name in public_names(folder / '__init__.py'):
            # A function that has the name of its module is documented by its full name.
            full = f'{name}.{name}' if (folder / f'{name}.py').is_file() else name
            if (
                not name.isupper()
                and not name.startswith('_')
                and f'id="{package}.{full}"' not in html
            ):
                yield f'{package}.{full}'


def public_names(init: Path) -> list[str]:
    """Return ``__all__`` of a module, without importing it."""
    for node in ast.parse(init.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return ast.literal_eval(node.value)
    return []
