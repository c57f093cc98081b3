"""One run in a work folder at a time, and no mix-up with the runs before it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import print_log

from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.files.locks import Lock, Locked, acquire_lock

from .checkpoints import TEMPLATES, numbered_checkpoints, stamps


class _Before(NamedTuple):
    """A work folder before a run: whether it is new, what is in it, and what a run adds."""

    folder: Path
    is_new: bool
    names: set[str]
    written: set[str]


#: Value of ``resume`` for a run that was started again by a launcher, and not by its user.
AUTO = 'auto'
_RECORD = 'run.json'
_LOCK = '.lock'
#: Seconds that a restarted run waits for the lock of a machine that has died with it.
_PATIENCE = 60.0
_held: list[Lock] = []
_before: list[_Before] = []
_LOG_FOLDER = re.compile(r'\d{8}_\d{6}')  # of MMEngine's runner


def claim_folder(config: Config, overwrite: bool = False, force: bool = False) -> None:
    """Make the work folder this run's, until :func:`release_folder` or the end of the process.

    Every rank must call this. A new run in a folder that holds checkpoints is refused unless
    ``overwrite`` is set; then those that are there already are never resumed from. A run that
    ``torchrun`` or Slurm has started again resumes: ``config.resume`` becomes :data:`AUTO`.

    Args:
        config (Config): With ``work_dir``; changed in place.
        overwrite (bool): Start a new run beside old checkpoints. Defaults to False.
        force (bool): Train even if another process holds the folder. Defaults to False.

    Raises:
        Locked: If another training is running there.
        ValueError: If it holds checkpoints of another run, or cannot be written.
    """
    marks = sorted({mark for marks in all_gather_object(_job_marks()) for mark in marks})
    if on_first_rank(lambda: _claim(config, overwrite, force, marks)):
        config.resume = config.get('resume') or AUTO


def release_folder() -> None:
    """Let other trainings have the folders that :func:`claim_folder` has claimed."""
    while _held:
        _held.pop().release()


def note_folder(config: Config) -> None:
    """Remember what is in the work folder of a run, before anything is written there."""
    folder, copy = Path(config.work_dir), os.path.basename(config.filename or '')
    _before.clear()
    if int(os.environ.get('RANK') or 0) == 0:
        names = os.listdir(folder) if folder.is_dir() else []
        _before.append(_Before(folder, not os.path.lexists(folder), {*names}, {_RECORD, copy}))


def abandon_folder() -> None:
    """Release the folder of a run that could not begin, and remove what that run wrote there.

    Its log folder, its copy of the config and its record go; neighbors stay, since the next
    try needs them. A new folder that is empty then is removed.
    """
    while _before:
        folder, is_new, names, written = _before.pop()
        # With --force another process may write there, and the folder is not held.
        for path in sorted(folder.iterdir()) if _held and folder.is_dir() else ():
            if path.name in names:
                continue
            if _LOG_FOLDER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name in written:
                path.unlink()
        release_folder()
        if is_new:
            try:
                folder.rmdir()
            except OSError:  # it holds more, such as neighbors
                pass
    release_folder()


@contextmanager
def held_folder(folder: str | Path, purpose: str = 'training', lock: str = _LOCK) -> Iterator[None]:
    """Hold the lock of a folder while something other than ``tools/train.py`` writes there.

    A new folder that is still empty at the end is removed.

    Args:
        folder (str | Path): Made with those above it.
        purpose (str): What is going to be done, for the messages of others. Defaults to
            ``'training'``.
        lock (str): Name of the lock file. Defaults to that of :func:`claim_folder`.

    Raises:
        Locked: If another process holds it.
    """
    folder = Path(folder)
    new = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    held = acquire_lock(folder / lock, purpose, 'wait for its end, or give another --work-dir')
    try:
        yield
    finally:
        held.release()
        for each in new:
            try:
                each.rmdir()
            except OSError:  # it holds something
                break


def is_restart() -> bool:
    """Whether ``torchrun`` or Slurm has started this training again."""
    return bool(_restarted())


def checkpoint_folder(config: Config) -> Path:
    """Where a run saves its checkpoints: ``work_dir``, or a folder of its name elsewhere."""
    out_dir = _checkpoint_options(config).get('out_dir')
    work_dir = Path(config.work_dir)
    return work_dir if not out_dir or '://' in str(out_dir) else Path(out_dir) / work_dir.name


def checkpoint_names(config: Config) -> tuple[str, ...]:
    """Templates of the names that a run gives its checkpoints."""
    own = _checkpoint_options(config).get('filename_tmpl')
    return (own,) if isinstance(own, str) and '{}' in own else TEMPLATES


def earlier_checkpoints(work_dir: str | Path) -> dict[str, list]:
    """Checkpoints that were in a work folder when its run began; see :func:`.stamps`."""
    found = _read_record(Path(work_dir)).get('earlier_checkpoints')
    return (
        {name: value for name, value in found.items() if isinstance(value, list)}
        if isinstance(found, dict)
        else {}
    )


def _claim(config: Config, overwrite: bool, force: bool, marks: list[str]) -> bool:
    """On rank 0; whether to resume."""
    folder = Path(config.work_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, force)
        if config.get('resume') or _is_begun_by(marks, folder):
            return True
        places, names = {checkpoint_folder(config)}, checkpoint_names(config)
        found = [path for place in places for path in numbered_checkpoints(place, names)]
        if found and not overwrite:
            release_folder()
            raise ValueError(
                f'{found[0].parent} holds checkpoints of another run ({found[0].name}). Pass '
                '--resume to continue it, another --work-dir for a new run, or --overwrite for a '
                'new run that replaces files of the same name'
            )
        _write_record(
            folder,
            dict(
                started=time.strftime('%Y-%m-%d %H:%M:%S'),
                jobs=marks,
                earlier_checkpoints={
                    name: stamp for place in places for name, stamp in stamps(place, names).items()
                },
            ),
        )
    except OSError as error:
        raise ValueError(
            f'the work folder {folder} cannot be written '
            f'({type(error).__name__}: {error}); choose another --work-dir'
        ) from error
    return False


def _lock(folder: Path, force: bool) -> None:
    remedy = (
        'wait for its end, train in another --work-dir, or pass --force if that process '
        'does not write there'
    )
    deadline = time.monotonic() + (_PATIENCE if is_restart() else 0.0)
    while True:
        try:
            _held.append(acquire_lock(folder / _LOCK, 'training', remedy))
            return
        except Locked as error:
            if force:
                print_log(f'--force: {error}', logger='current', level=logging.WARNING)
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _restarted() -> set[str]:
    """Which launchers have started this training again."""
    counts = dict(torchrun='TORCHELASTIC_RESTART_COUNT', slurm='SLURM_RESTART_COUNT')
    return {launcher for launcher, name in counts.items() if int(os.environ.get(name) or 0) > 0}


def _job_marks() -> list[str]:
    """Names of the jobs that this process belongs to, the same after a restart."""
    marks = []
    if os.environ.get('SLURM_JOB_ID'):
        marks.append(f'slurm {os.environ["SLURM_JOB_ID"]}')
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        # Of one torchrun, and in the environment also where a shell stands between.
        folder = os.environ.get('TORCHELASTIC_ERROR_FILE', '').split('attempt_')[0]
        marks.append(f'torchrun {socket.gethostname()} {folder or os.getppid()}')
    return marks


def _is_begun_by(marks: list[str], folder: Path) -> bool:
    """Whether this is a restart of the very job that began the run in a folder.

    A job whose first attempt was refused must not resume what is there at its second.
    """
    begun = _read_record(folder).get('jobs')
    wanted = [mark for mark in marks if mark.split()[0] in _restarted()]
    return isinstance(begun, list) and any(mark in begun for mark in wanted)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        if is_main_process():
            print_log(
                f'{path} is damaged ({error}); earlier runs in this folder are not known',
                logger='current',
                level=logging.WARNING,
            )
        return {}
    return found if isinstance(found, dict) else {}


def _write_record(folder: Path, content: dict[str, Any]) -> None:
    with atomic_write(folder / _RECORD) as partial:
        partial.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def _checkpoint_options(config: Config) -> dict:
    return (config.get('default_hooks') or {}).get('checkpoint') or {}
