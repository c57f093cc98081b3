"""Short names of checkpoints for titles."""

from __future__ import annotations

import re
from pathlib import Path

from cotap_mm.files.atomic_write import printable


def named_checkpoints(arguments: list[str]) -> dict[str, str]:
    """Map the title of each ``[NAME=]CHECKPOINT`` to its checkpoint.

    The default title is the file name without suffix, with the folder if two files have the same
    name.

    Args:
        arguments (list[str]): Arguments of the command line.

    Returns:
        dict[str, str]: Title -> checkpoint.

    Raises:
        ValueError: If two checkpoints have the same title.
    """
    split = [_split(argument) for argument in arguments]
    stems = [_title(checkpoint, 1) for _, checkpoint in split]
    checkpoints: dict[str, str] = {}
    for (name, checkpoint), stem in zip(split, stems):
        title = printable(name or (stem if stems.count(stem) == 1 else _title(checkpoint, 2)))
        if title in checkpoints:
            raise ValueError(
                f'two checkpoints are called {title!r}; write NAME={printable(checkpoint)}'
            )
        checkpoints[title] = checkpoint
    return checkpoints


def _split(argument: str) -> tuple[str, str]:
    """Split an argument into name (or '') and checkpoint; URLs and files may contain '='."""
    match = re.fullmatch(r'([^/:=]+)=(.+)', argument)
    if match is None or Path(argument).exists():
        return '', argument
    return match.group(1), match.group(2)


def _title(checkpoint: str, parts: int) -> str:
    random = checkpoint.startswith('random:')
    rest = checkpoint[len('random:') :] if random else checkpoint
    if rest.startswith('timm:'):
        rest = rest[len('timm:') :]
    elif rest.startswith('hf:'):  # USER/REPO, USER/REPO@REVISION or USER/REPO/FILE
        names = rest[len('hf:') :].strip('/').split('/')
        last = names[-1] if len(names) < 3 else Path(names[-1]).stem
        rest = '/'.join((*names[-parts:-1], last))
    else:
        path = Path(re.sub(r'^\w+://', '', rest))
        rest = '/'.join((*path.parts[-parts:-1], path.stem))
    return f'random {rest}' if random else rest
