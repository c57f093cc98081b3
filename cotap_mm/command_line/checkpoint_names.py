"""Short names of checkpoints, for titles."""

from __future__ import annotations

import re
from pathlib import Path

from cotap_mm.files.atomic_write import printable


def named_checkpoints(arguments: list[str]) -> dict[str, str]:
    """Title -> checkpoint of each ``[NAME=]CHECKPOINT``.

    A file is called after itself, and after its folder too where two files have one name.

    Raises:
        ValueError: If two checkpoints have one title.
    """
    split = [_split(argument) for argument in arguments]
    stems = [_title(checkpoint, 1) for _, checkpoint in split]
    found: dict[str, str] = {}
    for (name, checkpoint), stem in zip(split, stems):
        title = printable(name or (stem if stems.count(stem) == 1 else _title(checkpoint, 2)))
        if title in found:
            raise ValueError(
                f'two checkpoints are called {title!r}; write NAME={printable(checkpoint)}'
            )
        found[title] = checkpoint
    return found


def _split(argument: str) -> tuple[str, str]:
    """Name (perhaps '') and checkpoint. URLs and existing files may contain '='."""
    match = re.fullmatch(r'([^/:=]+)=(.+)', argument)
    if match is None or Path(argument).exists():
        return '', argument
    return match.group(1), match.group(2)


def _title(checkpoint: str, parts: int) -> str:
    random = checkpoint.startswith('random:')
    rest = checkpoint[len('random:') :] if random else checkpoint
    if rest.startswith('timm:'):
        rest = rest[len('timm:') :]
    else:
        place = Path(re.sub(r'^\w+://', '', rest))
        rest = '/'.join((*place.parts[-parts:-1], place.stem))
    return f'random {rest}' if random else rest
