"""File-based synchronization of ranks that build one file together.

Collectives time out after 10 to 30 minutes, and reading ImageNet takes longer. Here a rank may
work for as long as it needs; without a heartbeat it counts as lost, see
:mod:`cotap_mm.distributed.failures`. A lock lets builds of other runs wait.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable

from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import UNFINISHED
from cotap_mm.files.locks import locked

from .collectives import rank
from .failures import LostRank, abort_all_ranks_on_error, current_watch

_POLL = 0.5  # seconds
# Kinds of parts: features last, for whose end other ranks wait. `rows` are of version 0.1.
_KINDS = ('rows', 'found', 'ivf', 'features')
_WAIT, _BUILD, _COMPLETE = 'wait', 'build', 'complete'  # broadcast by rank 0


class PeerFailed(LostRank):
    """Another rank could not complete its part of a shared build."""


class SharedBuild:
    """Files next to ``out`` that ranks write and wait for; see :func:`build_together`.

    Args:
        out (Path): File to build.
        task (str): Digest of everything that determines the features. A later build with the same
            task reuses them.
    """

    def __init__(self, out: Path, task: str) -> None:
        self.out, self._digest = out, task[:8]

    def features(self, number: int) -> Path:
        """Path of the features of one part of the images."""
        return self.part('features', self._digest, number)

    def part(self, kind: str, digest: str, number: int | str) -> Path:
        """Path of one part of the work, next to ``out``.

        Args:
            kind (str): Kind of the work, one of ``_KINDS``.
            digest (str): Identifies what the part was computed from.
            number (int | str): Number of the part, or its name.
        """
        end = f'{number:05d}' if isinstance(number, int) else number
        return self.out.with_name(f'{self.out.name}.{kind}.{digest}.{end}')

    def wait(
        self, is_ready: Callable[[], bool], must_stay: bool = True, own: Sequence[Path] = ()
    ) -> None:
        """Wait until ``is_ready()``.

        Args:
            is_ready (callable): Polled until it returns True.
            must_stay (bool): Whether all ranks are needed for it. Defaults to True.
            own (sequence[Path]): Files that this rank has written for it. Defaults to ().

        Raises:
            PeerFailed: If a rank failed, died or was stopped.
            UserError: If a file of ``own`` was deleted: the ranks would wait for it forever.
        """
        watch = current_watch()
        while not is_ready():
            for path in own:
                if not path.is_file():
                    raise UserError(
                        f'{path} was deleted while the neighbors of {self.out.name} were being '
                        'built; start again'
                    )
            if watch is not None:
                try:
                    watch.check(must_stay)
                except LostRank as error:
                    raise PeerFailed(f'neighbors of {self.out.name}: {error}') from error
            time.sleep(_POLL)

    def clean_up(self) -> None:
        """Delete the files on rank 0; the other ranks wait until that is done."""
        if rank():
            self.wait(lambda: not self.features(0).is_file(), must_stay=False)
            return
        _remove(self.out, *_KINDS)


@contextmanager
def build_together(
    out: Path, task: str, is_wanted: Callable[[], bool]
) -> Iterator[SharedBuild | None]:
    """Build the file ``out`` on all ranks of one run, while no other run does.

    If another run is building it, wait, then use its result.

    Args:
        out (Path): File to build, in a folder that all ranks see.
        task (str): Digest of everything that determines the features of the images.
        is_wanted (callable): Returns whether a file that another run has built in the meantime
            is the one to build here.

    Yields:
        SharedBuild, optional: Files of the build; None if ``out`` is complete already.

    Raises:
        UserError: If another run has built a different file there.
        LostRank: If a rank failed, died or was stopped.
    """
    watch = current_watch()
    with (
        abort_all_ranks_on_error(lambda: f'building the neighbors of {out.name}'),
        _lock_of_ranks(out, is_wanted) as state,
    ):
        if state == _COMPLETE:
            yield None
            return
        with nullcontext() if watch is None else watch.steps_needed():
            yield SharedBuild(out, task)


@contextmanager
def _lock_of_ranks(out: Path, is_wanted: Callable[[], bool]) -> Iterator[str]:
    """Hold the lock of ``out`` on rank 0; yields ``_COMPLETE`` or ``_BUILD``."""
    if rank():
        state = _WAIT
        while state == _WAIT:
            state = _from_rank_0(None)
        yield state
        return
    before = _stamp(out)
    with locked(
        out.with_name(f'{out.name}.lock'), f'building {out.name}', lambda: _from_rank_0(_WAIT)
    ):
        state = _BUILD
        if _stamp(out) != before:
            if not is_wanted():
                raise UserError(
                    f'{out} was just written by another process, for other '
                    'images or settings; choose another --out'
                )
            print_log(f'{out} was built by another process; using it', logger='current')
            state = _COMPLETE
        yield _from_rank_0(state)


def _from_rank_0(value: Any) -> Any:
    """Broadcast the value of rank 0 to all ranks."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Inode, size and modification time, which change when a file is replaced."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remove(out: Path, *kinds: str) -> None:
    """Delete the files of these kinds next to ``out``, including those of killed runs."""
    for kind in kinds:
        for prefix in ('', f'{UNFINISHED}*-'):
            for path in out.parent.glob(f'{prefix}{glob.escape(out.name)}.{kind}.*'):
                path.unlink(missing_ok=True)
