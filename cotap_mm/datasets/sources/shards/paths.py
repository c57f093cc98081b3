"""Recognize shards in a path, and expand brace patterns such as ``a-{000..099}.tar``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Union

from cotap_mm.files.atomic_write import printable

from ..formats import IMAGE_SUFFIXES

SHARD_SUFFIX = '.tar'
COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.txz', '.tar.zst')
INDEX_FILE = 'cotap_index.npz'
PLAN_FILE = 'cotap_pack.json'
_URI = re.compile(r'[a-zA-Z][a-zA-Z0-9+.-]+://')
_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')
_MOST = 1_000_000


def is_uri(path: Union[str, Path]) -> bool:
    """Whether a path is a URI such as ``s3://bucket/folder``."""
    return _URI.match(str(path)) is not None


def is_shards(path: Union[str, Path]) -> bool:
    """Whether a path means tar shards rather than image files.

    These are URIs, names and patterns that end in ``.tar`` (or its compressed forms, which are
    refused later), and folders that :func:`cotap_mm.datasets.pack_shards` wrote or that have
    ``*.tar`` files and neither images nor subfolders.
    """
    text = str(path)
    if is_uri(text):
        return True
    path = Path(text).expanduser()
    if path.is_dir():
        return _is_shard_folder(path)
    return text.lower().endswith((SHARD_SUFFIX, *COMPRESSED))


def _is_shard_folder(folder: Path) -> bool:
    if any((folder / name).is_file() for name in (INDEX_FILE, PLAN_FILE)):
        return True
    has_shards = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith('.'):
                    continue
                if name.endswith(IMAGE_SUFFIXES) or entry.is_dir():
                    return False
                has_shards = has_shards or name.endswith((SHARD_SUFFIX, *COMPRESSED))
    except OSError:  # reported where the folder is listed
        return False
    return has_shards


def split_shards(root: str) -> tuple[str, list[str]]:
    """Split a path or URI into a folder and the shards that it names.

    Args:
        root (str): A folder, a ``*.tar`` file or a pattern of such files.

    Returns:
        tuple[str, list[str]]: The folder, and the names of its shards; empty for all of them.

    Raises:
        ValueError: If a pattern has a wrong or too long range, or braces in its folder.
    """
    text = root[len('file://') :] if root.startswith('file://') else root
    if not text.lower().endswith((SHARD_SUFFIX, *COMPRESSED)) or Path(text).is_dir():
        return text, []
    folder, slash, last = text.rpartition('/')
    if '{' in folder and not Path(folder).is_dir():
        raise ValueError(
            f'a pattern of shards must have its braces in the file name, got {printable(root)}; '
            'give the shards of one folder'
        )
    return (folder or slash or '.'), _expand(last, root)


def _expand(name: str, root: str) -> list[str]:
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST:
        raise ValueError(
            f'a range of shards must count up by at most {_MOST:,}, got {match[0]} in '
            f'{printable(root)}'
        )
    width = len(match[1]) if match[1].startswith('0') else 0
    before, after = name[: match.start()], name[match.end() :]
    return [
        head + rest
        for number in range(first, last + 1)
        for head in [f'{before}{number:0{width}d}']
        for rest in _expand(after, root)
    ]
