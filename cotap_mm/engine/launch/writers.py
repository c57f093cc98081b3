"""What a run writes beside its checkpoints, and what happens where it cannot.

Logs and scalars are not worth a training. Where the disk is full, read-only, or gone, the
lines that cannot be written are lost and counted; a warning says so once, and another one that
all is well again. Checkpoints have their own rule: :class:`cotap_mm.engine.AtomicCheckpointHook`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable

from mmengine.fileio import dump
from mmengine.logging import MMLogger, print_log
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_append

_METHODS = ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars')
_PROBE = 4096  # bytes


class Outage:
    """Counts what one writer loses while it cannot write.

    Args:
        what (str): Name of the writer, for the log.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.lost = 0
        self._is_reporting = False

    @contextmanager
    def survived(self) -> Iterator[None]:
        """Write something, in this context; an OSError only loses it."""
        try:
            yield
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                self._report(
                    f'{self.what} cannot be written ({type(error).__name__}: {error}). '
                    'Training continues; what it would write is lost until that works '
                    'again',
                    logging.ERROR,
                )
        else:
            if self.lost and not self._is_reporting:
                lost, self.lost = self.lost, 0
                self._report(
                    f'{self.what} can be written again; {lost} records were lost', logging.WARNING
                )

    def finish(self) -> None:
        """Report what is lost for good."""
        if self.lost:
            self._report(
                f'{self.what}: the last {self.lost} records could not be written and are lost',
                logging.WARNING,
            )
            self.lost = 0

    def _report(self, text: str, level: int) -> None:
        self._is_reporting = True  # the log file may be what cannot be written
        try:
            print_log(text, logger='current', level=level)
        finally:
            self._is_reporting = False


class _WholeLines:
    """What a log handler takes for its open file; each text is in the file wholly or not at all.

    Opened anew for each, so that a file which vanishes comes back.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._outage = Outage(f'the log file {path}')

    def write(self, text: str) -> None:
        with self._outage.survived():
            atomic_append(self._path, text)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._outage.finish()


class _SurvivingHandler(logging.FileHandler):
    """A log file that may fail."""

    def _open(self) -> Any:
        return _WholeLines(self.baseFilename)


def guard_writers(logger: MMLogger, visualizer: Visualizer) -> None:
    """Let a training live through the failures of its log file and its visualizer's backends.

    Args:
        logger (MMLogger): Its log files are replaced by ones that do not raise.
        visualizer (Visualizer): Likewise each of its backends, one by one.
    """
    logger.handlers[:] = map(_guarded_handler, logger.handlers)
    if threading.excepthook is not _hide_writing_threads:
        _excepthook_before[:] = [threading.excepthook]
        threading.excepthook = _hide_writing_threads
    for name, backend in visualizer._vis_backends.items():
        _guard_backend(backend, Outage(f'{type(backend).__name__} {name!r}'))


_excepthook_before: list[Callable] = []


def _hide_writing_threads(error: Any) -> None:
    """TensorBoard's thread prints its error, which is raised and reported in the main one too."""
    is_known = isinstance(error.exc_value, OSError) and 'AsyncWriter' in type(error.thread).__name__
    if not is_known:
        _excepthook_before[0](error)


def _guarded_handler(handler: logging.Handler) -> logging.Handler:
    if type(handler) is not logging.FileHandler:
        return handler
    guarded = _SurvivingHandler(handler.baseFilename, encoding='utf-8')
    guarded.setLevel(handler.level)
    guarded.setFormatter(handler.formatter)
    for each in handler.filters:
        guarded.addFilter(each)
    handler.close()
    return guarded


def _guard_backend(backend: Any, outage: Outage) -> None:
    if isinstance(backend, LocalVisBackend):
        backend._dump = _append_record  # type: ignore[method-assign]
    for name in _METHODS:
        setattr(backend, name, partial(_call, backend, outage, getattr(backend, name)))
    backend.close = partial(_close, outage, backend.close)


def _call(backend: Any, outage: Outage, method: Callable, *args: Any, **options: Any) -> None:
    with outage.survived():
        if outage.lost and isinstance(backend, TensorboardVisBackend):
            _reopen(backend)
        method(*args, **options)


def _close(outage: Outage, close: Callable[[], None]) -> None:
    try:
        close()
    except OSError:
        outage.lost += 1
    outage.finish()


def _reopen(backend: TensorboardVisBackend) -> None:
    """TensorBoard's writing thread has died of the error; start another one, with a new file."""
    check_folder(backend._save_dir)  # else each try would leave an empty file
    backend._init_env()


def _append_record(record: dict, file_path: str, file_format: str) -> None:
    """As LocalVisBackend's, without half a record on a full disk."""
    atomic_append(file_path, dump(record, file_format=file_format) + '\n')


def check_folder(folder: str | Path) -> None:
    """Make a folder, and write a little into it.

    Args:
        folder (str | Path): Made with those above it.

    Raises:
        OSError: If that is impossible.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE))
        file.flush()
        os.fsync(file.fileno())


def check_work_dir(folder: str | Path) -> None:
    """Find out before anything is computed whether a run can write where it should.

    Args:
        folder (str | Path): The work folder.

    Raises:
        UserError: With the reason.
    """
    try:
        check_folder(folder)
    except OSError as error:
        raise UserError(
            f'the work folder {folder} must be one that can be written to: '
            f'{error.strerror or error}; free space, or choose another one with '
            '--work-dir'
        ) from error
