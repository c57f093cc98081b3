"""How ranks that build one file together wait for each other, and for builds of other runs.

Not by collectives, which give up after 10 to 30 minutes; reading ImageNet takes longer. A rank
may work for as long as it needs; without a sign of life it counts as lost, see
:mod:`cotap_mm.distributed.failures`.
"""

from __future__ import annotations

import glob
import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable

import numpy as np
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import UNFINISHED, atomic_write
from cotap_mm.files.locks import locked

from .collectives import rank, world_size
from .failures import LostRank, abort_all_ranks_on_error, current_watch

_POLL = 0.5  # seconds
_WAIT, _THERE = 'wait', 'there'  # what rank 0 tells the others; else the name of the meeting


class PeerFailed(LostRank):
    """Another rank could not do its part."""


class SharedBuild:
    """Files beside ``out`` that ranks write and wait for; see :func:`build_together`.

    Args:
        out (Path): What is built.
        name (str): Of this meeting; no other has it.
        task (str): What the features follow from. A later build for the same task takes them
            over.
    """

    def __init__(self, out: Path, name: str, task: str) -> None:
        self.out, self.name = out, name
        self._digest = hashlib.sha256(task.encode('utf-8', 'surrogateescape')).hexdigest()[:8]

    def features(self, number: int) -> Path:
        """Where the features of a part of the images are kept."""
        return self.out.with_name(f'{self.out.name}.features.{self._digest}.{number:05d}')

    def wait(
        self, is_ready: Callable[[], bool], must_stay: bool = True, own: Sequence[Path] = ()
    ) -> None:
        """Until ``is_ready()``.

        Args:
            is_ready (callable): Asked again and again.
            must_stay (bool): Whether all ranks are needed for it. Defaults to True.
            own (sequence[Path]): Files that this rank has written for it. Defaults to ().

        Raises:
            PeerFailed: If a rank failed, died or was stopped.
            UserError: If a file of ``own`` is gone: the ranks would wait for it forever.
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

    def collect(self, rows: np.ndarray, count: int) -> np.ndarray | None:
        """All ranks' rows, concatenated, on rank 0; None elsewhere.

        Args:
            rows (np.ndarray): This rank's, shape (n, k).
            count (int): Rows of all ranks.
        """
        if world_size() == 1:
            return rows
        with atomic_write(self._rows(rank())) as partial:
            np.save(partial, rows, allow_pickle=False)
        if rank():
            return None
        paths = [self._rows(other) for other in range(world_size())]
        self.wait(lambda: all(path.is_file() for path in paths), own=paths[:1])
        found = np.concatenate([np.load(path, allow_pickle=False) for path in paths])
        if found.shape != (count, rows.shape[1]):
            raise RuntimeError(
                f'the ranks found neighbors of shape {found.shape}, expected '
                f'{(count, rows.shape[1])}; do all of them see the same images?'
            )
        return found

    def clean_up(self) -> None:
        """Rank 0 deletes the files; the others wait until it has."""
        if rank():
            self.wait(lambda: not self._rows(rank()).is_file(), must_stay=False)
            return
        _remove(self.out, 'features', 'rows')

    def _rows(self, of_rank: int) -> Path:
        return self.out.with_name(f'{self.out.name}.rows.{self.name}.{of_rank}of{world_size()}.npy')


@contextmanager
def build_together(
    out: Path, task: str, is_wanted: Callable[[], bool]
) -> Iterator[SharedBuild | None]:
    """All ranks of a run work on the file ``out``, and no other run does.

    Where another one is building it, this one waits, and then takes what that has built.

    Args:
        out (Path): In a folder that all ranks see.
        task (str): What features of images follow from.
        is_wanted (callable): Whether a file that another run has built in the meantime is what
            this one wants.

    Yields:
        SharedBuild: Their files; None if ``out`` is there.

    Raises:
        UserError: If another run has built something else there.
        LostRank: If a rank failed, died or was stopped.
    """
    watch = current_watch()
    with (
        abort_all_ranks_on_error(lambda: f'finding the neighbors of {out.name}'),
        _lock_of_ranks(out, is_wanted) as said,
    ):
        if said == _THERE:
            yield None
            return
        with nullcontext() if watch is None else watch.steps_needed():
            yield SharedBuild(out, said, task)


@contextmanager
def _lock_of_ranks(out: Path, is_wanted: Callable[[], bool]) -> Iterator[str]:
    """Rank 0 holds the lock of ``out`` for all; yields what all ranks then know."""
    if rank():
        said = _WAIT
        while said == _WAIT:
            said = _agreed(None)
        yield said
        return
    before = _stamp(out)
    with locked(out.with_name(f'{out.name}.lock'), f'building {out.name}', lambda: _agreed(_WAIT)):
        said = uuid.uuid4().hex[:8]
        if _stamp(out) != before:
            if not is_wanted():
                raise UserError(
                    f'{out} has just been written by another process, for other '
                    'images or settings; give another --out'
                )
            print_log(f'{out} has been built by another process; using it', logger='current')
            said = _THERE
        else:
            _remove(out, 'rows')
        yield _agreed(said)


def _agreed(said: Any) -> Any:
    """What rank 0 says, on all ranks."""
    found = [said]
    broadcast_object_list(found)
    return found[0]


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remove(out: Path, *kinds: str) -> None:
    """Delete the files beside ``out`` of these kinds, also those of runs that were killed."""
    for kind in kinds:
        for prefix in ('', f'{UNFINISHED}*-'):
            for path in out.parent.glob(f'{prefix}{glob.escape(out.name)}.{kind}.*'):
                path.unlink(missing_ok=True)
