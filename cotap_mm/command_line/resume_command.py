"""The command line that resumes this training."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence

#: Environment variable in which ``cotap train --gpus`` hands its command to its processes.
VARIABLE = 'COTAP_RESUME_COMMAND'
_LAUNCH_OPTIONS = ('--launcher', '--local_rank', '--local-rank')  # each with a value


def resume_command(words: Sequence[str]) -> str:
    """Return the command that resumes a training.

    Args:
        words (sequence): Arguments of ``cotap train``, without the name of the program.

    Returns:
        str: A line for a shell; '' for several machines and other launchers than ``torchrun``,
        where only the user knows it.
    """
    world = int(os.environ.get('WORLD_SIZE', 1))
    if world > 1 and VARIABLE in os.environ:
        return os.environ[VARIABLE]
    kept = _without_launch_options(words)
    if world > 1:
        if os.environ.get('LOCAL_WORLD_SIZE') != str(world):
            return ''
        kept += ['--gpus', str(world)]
    # A new run in a used folder needs --overwrite; to resume means the opposite.
    kept = [word for word in kept if not _abbreviates(word, '--overwrite')]
    if '--resume' not in kept:
        kept.append('--resume')
    return f'{_program()} {shlex.join(kept)}'


def _program() -> str:
    """How the program of this process was called."""
    name = sys.argv[0]
    if name.endswith('.py') and os.path.basename(name) == 'train.py':
        return f'python {shlex.quote(name)}'
    return 'cotap train' if shutil.which('cotap') else 'python -m cotap_mm train'


def _without_launch_options(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    is_value = False
    for word in words:
        if not is_value and word.split('=')[0] not in _LAUNCH_OPTIONS:
            kept.append(word)
        is_value = not is_value and word in _LAUNCH_OPTIONS
    return kept


def _abbreviates(word: str, option: str) -> bool:
    return len(word) > 2 and option.startswith(word)
