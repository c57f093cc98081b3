"""Number the events of a training, separately for each moment, from within its process.

An event is an operation on a file of the case (open, write, sync, rename, delete), a collective,
or a step of the training. All runs have the same events in the same order, so a moment and a
number define where a fault happens. Events are intercepted in Python and MMEngine (audit hooks,
``open``, ``Runner.call_hook``), not in the code under test.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import torch
import torch.distributed as dist
from mmengine.runner import Runner

from cotap_mm.engine import AtomicCheckpointHook, auto_neighbors
from cotap_mm.evaluation import EvaluationHook

_AUDITED = (
    'open',
    'os.rename',
    'os.remove',
    'os.mkdir',
    'os.truncate',
    'os.listdir',
    'os.scandir',
    'os.link',
    'os.rmdir',
)
_COLLECTIVES = (
    'all_reduce',
    'broadcast',
    'all_gather',
    'all_gather_object',
    'barrier',
    'broadcast_object_list',
    'init_process_group',
)
#: Files that the harness itself writes to the folder of a case; they are not events.
OWN = ('filler.bin', 'output-')


class Probes:
    """Events of this process.

    Args:
        folder (Path): Folder of the case; operations elsewhere are not events.
        listener (callable): Called as ``listener(moment, number, what, path)`` at each event;
            ``path`` is None for events without a file. Its errors are raised at the event.
        report (callable): Called with a line of text for the parent process.
    """

    def __init__(
        self,
        folder: Path,
        listener: Callable[[str, int, str, str | None], None],
        report: Callable[[str], None],
    ) -> None:
        self.folder, self.listener, self.report = f'{folder}{os.sep}', listener, report
        self.moment = 'start-up'
        self.counts: dict[str, int] = {}
        self._pid, self._is_busy = os.getpid(), False
        self._short: set[str] = set()  # files whose last write was short

    def event(self, what: str, path: str | None = None) -> None:
        """Count an event and notify the listener, unless it is handling another one."""
        if self._is_busy or os.getpid() != self._pid:
            return
        number = self.counts.get(self.moment, 0)
        self.counts[self.moment] = number + 1
        self._is_busy = True
        try:
            self.listener(self.moment, number, what, path)
        finally:
            self._is_busy = False

    def install(self) -> None:
        """Start intercepting; this cannot be undone."""
        sys.addaudithook(self._audit)
        self._watch_writes()
        self._watch_steps()
        self._watch_moments()

    @contextmanager
    def during(self, moment: str) -> Iterator[None]:
        """Assign events in this context to ``moment``."""
        before, self.moment = self.moment, moment
        try:
            self.event(f'begin of {moment}')
            yield
        finally:
            self.moment = before

    def own_path(self, path: Any) -> str | None:
        """The path as text if it is in the folder of the case, else None."""
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.path.abspath(os.fsdecode(path))
            if text.startswith(self.folder) and not os.path.basename(text).startswith(OWN):
                return text
        return None

    def write(self, path: str, data: memoryview, plain: Callable[[memoryview], Any]) -> int:
        """Write with an event after half of the data; a failure is a short write, then an error."""
        half = 0 if path in self._short else plain(data[: len(data) // 2])
        try:
            self.event('write', path)
        except OSError:
            if not half:
                self._short.discard(path)
                raise
            self._short.add(path)
            return half
        self._short.discard(path)
        return half + plain(data[half:])

    def _audit(self, name: str, arguments: tuple) -> None:
        if name not in _AUDITED or self._is_busy or not arguments:
            return
        path = self.own_path(arguments[0])
        if path is None:
            return
        what = name.rpartition('.')[2]
        if name == 'open':
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            what = 'open to write' if writes else 'open to read'
        self.event(what, path)

    def _watch_writes(self) -> None:
        plain_open, plain_sync, plain_write, probes = builtins.open, os.fsync, os.write, self

        class WatchedFile(io.FileIO):
            """A file whose writes trigger events, each after half of the data."""

            def write(self, data: Any) -> int:
                return probes.write(str(self.name), memoryview(data).cast('B'), super().write)

        def watched_open(
            file: Any,
            mode: str = 'r',
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            path = probes.own_path(file)
            if path is None or buffering == 0 or not set(mode) & set('wax+'):
                return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = WatchedFile(path, mode.replace('t', '').replace('b', ''), opener=opener)
            kind = io.BufferedRandom if '+' in mode else io.BufferedWriter
            buffered = kind(raw)
            if 'b' in mode:
                return buffered
            text = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
            text.mode = mode
            return text

        def watched_sync(handle: int) -> None:
            probes.event('fsync', probes.own_path(_path_of(handle)))
            plain_sync(handle)

        def watched_write(handle: int, data: Any) -> int:
            path = probes.own_path(_path_of(handle)) if handle > 2 else None
            if path is None:
                return plain_write(handle, data)
            return probes.write(
                path, memoryview(data).cast('B'), lambda part: plain_write(handle, part)
            )

        builtins.open = io.open = watched_open
        os.fsync, os.write = watched_sync, watched_write

    def _watch_steps(self) -> None:
        plain_call, plain_backward = Runner.call_hook, torch.Tensor.backward

        def call_hook(runner: Runner, name: str, **options: Any) -> None:
            if name == 'before_train_iter':
                self.moment = 'training'
            elif name == 'after_train':
                self.moment = 'end'
            if name in ('before_train', 'before_train_iter', 'after_train_iter', 'after_train'):
                self.event(name.replace('_', ' '))
            if name == 'after_train_iter':
                self.report(f'done {runner.iter + 1}')
            plain_call(runner, name, **options)

        def backward(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
            self.event('backward')
            plain_backward(tensor, *arguments, **options)

        Runner.call_hook, torch.Tensor.backward = call_hook, backward
        for name in _COLLECTIVES:
            setattr(dist, name, self._before(getattr(dist, name), name))

    def _watch_moments(self) -> None:
        for owner, name, moment in (
            (auto_neighbors, 'build_neighbors', 'neighbor search'),
            (EvaluationHook, 'evaluate', 'evaluation'),
            (AtomicCheckpointHook, '_save_checkpoint_with_step', 'saving'),
        ):
            setattr(owner, name, self._within(getattr(owner, name), moment))

    def _before(self, function: Callable, what: str) -> Callable:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.event(what)
            return function(*arguments, **options)

        return watched

    def _within(self, function: Callable, moment: str) -> Callable:
        def watched(*arguments: Any, **options: Any) -> Any:
            with self.during(moment):
                return function(*arguments, **options)

        return watched


def _path_of(handle: int) -> str | None:
    try:
        return os.readlink(f'/proc/self/fd/{handle}')
    except OSError:
        return None
