"""Keep training when logs and scalars cannot be written.

If the disk is full, read-only or unavailable, the records that cannot be written are dropped and
counted. One message reports the failure, another one the recovery. Checkpoints are handled by
:class:`cotap_mm.engine.AtomicCheckpointHook`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable

from mmengine.fileio import dump
from mmengine.logging import MMLogger, print_log
from mmengine.visualization import (
    LocalVisBackend,
    MLflowVisBackend,
    TensorboardVisBackend,
    Visualizer,
    WandbVisBackend,
)

from cotap_mm.error_text import sentence_of
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_append

_METHODS = ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars')
_PROBE = 4096  # bytes


class Outage:
    """Count the records that a writer loses while it cannot write.

    Args:
        what (str): Name of the writer, for the log.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.lost = 0
        self._is_reporting = False

    @contextmanager
    def survived(self) -> Iterator[None]:
        """Count an OSError in this context as a lost record instead of raising it."""
        try:
            yield
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                self._report(
                    f'{self.what} cannot be written ({type(error).__name__}: {error}). '
                    'Training continues; records are lost until writing succeeds again',
                    logging.ERROR,
                )
        else:
            if self.lost and not self._is_reporting:
                lost, self.lost = self.lost, 0
                self._report(
                    f'{self.what} can be written again; {lost} records were lost', logging.WARNING
                )

    def finish(self) -> None:
        """Report records that are still lost at the end."""
        if self.lost:
            self._report(
                f'{self.what}: the last {self.lost} records could not be written and are lost',
                logging.WARNING,
            )
            self.lost = 0

    def _report(self, text: str, level: int) -> None:
        self._is_reporting = True  # the log file itself may be the failing writer
        try:
            print_log(text, logger='current', level=level)
        finally:
            self._is_reporting = False


class _AtomicLogFile:
    """File object for a log handler that writes each record completely or not at all.

    The file is reopened for each record, so that it is created again if it was deleted.
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
    """Log handler whose file may fail."""

    def _open(self) -> Any:
        return _AtomicLogFile(self.baseFilename)


def guard_writers(logger: MMLogger, visualizer: Visualizer) -> None:
    """Keep training when the log file or a backend of the visualizer cannot be written.

    Args:
        logger (MMLogger): Its file handlers are replaced by handlers that do not raise.
        visualizer (Visualizer): The writing methods of its backends are replaced by methods
            that do not raise.
    """
    logger.handlers[:] = map(_guarded_handler, logger.handlers)
    if threading.excepthook is not _hide_tensorboard_errors:
        _excepthook_before[:] = [threading.excepthook]
        threading.excepthook = _hide_tensorboard_errors
    for name, backend in visualizer._vis_backends.items():
        _guard_backend(backend, Outage(f'{type(backend).__name__} {name!r}'))


_excepthook_before: list[Callable] = []


def _hide_tensorboard_errors(error: Any) -> None:
    """Hide errors of TensorBoard's writer thread; the main thread raises and reports them."""
    is_known = isinstance(error.exc_value, OSError) and 'AsyncWriter' in type(error.thread).__name__
    if not is_known:
        _excepthook_before[0](error)


def _guarded_handler(handler: logging.Handler) -> logging.Handler:
    if type(handler) is not logging.FileHandler:
        return handler
    guarded = _SurvivingHandler(handler.baseFilename, encoding='utf-8')
    guarded.setLevel(handler.level)
    guarded.setFormatter(handler.formatter)
    for log_filter in handler.filters:
        guarded.addFilter(log_filter)
    handler.close()
    return guarded


def _guard_backend(backend: Any, outage: Outage) -> None:
    if isinstance(backend, LocalVisBackend):
        backend._dump = _append_record  # type: ignore[method-assign]
    for name in _METHODS:
        setattr(backend, name, partial(_call, backend, outage, getattr(backend, name)))
    backend.close = partial(_close, outage, backend.close)


@contextmanager
def explained_services() -> Iterator[None]:
    """Report in one sentence that a service for logs cannot be used, e.g. without a login.

    Raises:
        UserError: Instead of an error that was raised while wandb or MLflow was starting.
    """
    try:
        yield
    except Exception as error:
        starting = [
            frame.f_locals.get('self')
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_name == '_init_env'
        ]
        if any(isinstance(backend, WandbVisBackend) for backend in starting):
            name, advice = 'wandb', 'log in (wandb login), set WANDB_MODE=offline'
        elif any(isinstance(backend, MLflowVisBackend) for backend in starting):
            name, advice = 'mlflow', 'check MLFLOW_TRACKING_URI'
        else:
            raise
        raise UserError(
            f'--log {name} cannot start ({type(error).__name__}: {sentence_of(error)}); {advice}, '
            'or use --log tensorboard'
        ) from error


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
    """Start a new writer thread with a new file; the previous thread died from the error."""
    check_folder(backend._save_dir)  # otherwise each attempt would leave an empty file
    backend._init_env()


def _append_record(record: dict, file_path: str, file_format: str) -> None:
    """Replacement for LocalVisBackend._dump that writes no partial record to a full disk."""
    atomic_append(file_path, dump(record, file_format=file_format) + '\n')


def check_folder(folder: str | Path) -> None:
    """Create a folder and test that a file can be written to it.

    Args:
        folder (str | Path): Created with its parents.

    Raises:
        OSError: If the folder cannot be created or written to.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE))
        file.flush()
        os.fsync(file.fileno())


def check_work_dir(folder: str | Path) -> None:
    """Check that the work folder is writable before anything is computed.

    Args:
        folder (str | Path): The work folder.

    Raises:
        UserError: If it is not, with the reason.
    """
    try:
        check_folder(folder)
    except OSError as error:
        raise UserError(
            f'the work folder {folder} must be writable: {error.strerror or error}; free disk '
            'space, or choose another folder with --work-dir'
        ) from error
