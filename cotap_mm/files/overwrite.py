"""Protect existing files: a tool only replaces files that it has written itself."""

from __future__ import annotations

import argparse
import os
import zipfile
from pathlib import Path
from typing import Callable

from .atomic_write import printable


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``."""
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace an existing file even if this tool did not write it',
    )


def check_replaceable(
    path: str | Path, is_ours: Callable[[Path], bool], what: str, overwrite: bool = False
) -> None:
    """Refuse to replace a file that the tool did not write, before anything is computed.

    Args:
        path (str | Path): File that the tool is going to write.
        is_ours (callable): Path -> whether the tool has written that file; ValueError and OSError
            mean that it has not.
        what (str): What the tool writes, such as ``'a neighbor file'``.
        overwrite (bool): Whether any file may be replaced. Defaults to False.

    Raises:
        ValueError: If the file exists and was not written by the tool.
    """
    path = Path(path)
    if overwrite or not os.path.lexists(path):
        return
    try:
        replaceable = path.is_file() and is_ours(path)
    except (ValueError, OSError, zipfile.BadZipFile):
        replaceable = False
    if not replaceable:
        raise ValueError(
            f'{printable(path)} exists and is not {what} that can be read; choose '
            'another name, or pass --overwrite to replace it'
        )
