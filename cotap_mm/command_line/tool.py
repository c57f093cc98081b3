"""What the command-line tools have in common: how they read arguments and how they end.

A tool's ``main`` is decorated with :func:`tool`. What a user can act on ends it with one
sentence on stderr: exit status 2 for a wrong command line, 1 for everything else. An
unexpected exception keeps its traceback and adds versions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import torch

from cotap_mm import signals
from cotap_mm.error_text import sentence_of
from cotap_mm.errors import UserError

HINT = '(COTAP_TRACEBACK=1 shows where)'
_SETUP = (OSError, ValueError, ImportError)  # what a user can act on before a run has started
_VERSIONS = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    'mmpretrain',
    'mmsegmentation',
    'mmdet',
    'numpy',
)
_BROKEN_PIPE = 128 + signal.SIGPIPE if hasattr(signal, 'SIGPIPE') else 1
_INTERRUPTED = 128 + signal.SIGINT


def tool(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate the ``main`` of a tool, so that it ends as all tools do.

    * :class:`~cotap_mm.errors.UserError` and lack of memory: one sentence, status 1.
    * Ctrl-C: a short line, status 130.
    * A signal that asks it to stop (:mod:`cotap_mm.signals`): a sentence, status 75.
    * A closed pipe behind stdout, as with ``| head``: nothing, status 141.
    * Another exception is unexpected: its traceback, then versions and where to report it.

    With the environment variable ``COTAP_TRACEBACK`` set, all exceptions keep their traceback.
    Of several processes with the same sentence only the first one prints it.

    Args:
        main (callable): Takes the arguments of the tool, or None for those of the process.

    Returns:
        callable: The same with these endings.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        _print_any_name()
        try:
            with _endings(), signals.listening(to_the_end=main.__module__ == '__main__'):
                main(*args, **kwargs)
                sys.stdout.flush()
                if hasattr(signal, 'SIGCHLD') and main.__module__ == '__main__':
                    # PyTorch's handler reports dead workers, also while Python shuts down.
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except SystemExit as end:
            _say_once(end)
            raise
        except BaseException:
            sys.excepthook = _print_unexpected
            raise

    return run


@contextmanager
def _endings() -> Iterator[None]:
    """Turn what is expected into SystemExit."""
    try:
        with signals.restored():
            yield
    except KeyboardInterrupt as interrupt:
        if os.environ.get('COTAP_TRACEBACK'):
            raise
        if _rank() == 0:
            print('; '.join(['interrupted', *map(str, interrupt.args)]), file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        if os.environ.get('COTAP_TRACEBACK') or not _is_for_user(error):
            raise
        raise _end_of(error) from error


@contextmanager
def short_errors(
    *more: type[Exception], until: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """End the program with the sentence of an error that a user can act on, without a traceback.

    While a run is set up, that is every OSError, ValueError and ImportError, and what the
    OpenMMLab packages raise for parts of a config that cannot be built. With the environment
    variable ``COTAP_TRACEBACK`` set, errors stay as they are.

    Args:
        *more: Further types of errors.
        until (callable): Whether the set-up is over; then these errors are unexpected, and
            only a UserError ends in its sentence. Defaults to never.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        expected = (
            _is_for_user(error)
            or not until()
            and (isinstance(error, (*_SETUP, *more)) or _is_of_config(error))
        )
        if os.environ.get('COTAP_TRACEBACK') or not expected:
            raise
        raise _end_of(error) from error


def _print_any_name() -> None:
    """Let print() show paths that are not UTF-8, as stderr does, instead of failing."""
    if getattr(sys.stdout, 'errors', None) == 'strict' and hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')


def _end_of(error: BaseException) -> SystemExit:
    sentence = sentence_of(error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        sentence += '; check that it exists, can be used and has room, then start again'
    if _is_dead_worker(error):
        sentence = (
            f'a process of the loader died ({sentence.rstrip(". ")}); look at the memory '
            'of the machine, then start again'
        )
    if _is_out_of_memory(error):
        sentence = (
            f'out of memory; use a smaller batch, smaller images, or another device ({sentence})'
        )
    return SystemExit(f'error: {sentence}\n{HINT}')


def _is_for_user(error: BaseException) -> bool:
    return isinstance(error, UserError) or _is_out_of_memory(error) or _is_dead_worker(error)


def _is_dead_worker(error: BaseException) -> bool:
    """Whether PyTorch has noticed a killed worker, which it does anywhere, also at the end."""
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid')


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _is_of_config(error: BaseException) -> bool:
    """Whether a config cannot be built: a wrong type, option or value of a part.

    MMEngine raises KeyError for types that are in no registry, Python raises TypeError for
    options that a class does not have, and the OpenMMLab packages assert their values.
    """
    text = str(error)
    return (
        isinstance(error, KeyError)
        and ' registry. Please check whether ' in text
        or isinstance(error, TypeError)
        and re.search(r'unexpected keyword argument|missing \d+ required', text) is not None
        or isinstance(error, AssertionError)
        and bool(text)
    )


# ---- several processes ---------------------------------------------------------------------


def _rank() -> int:
    """This process's number among those that a launcher started; 0 for one alone."""
    for size, number in (('WORLD_SIZE', 'RANK'), ('SLURM_NTASKS', 'SLURM_PROCID')):
        try:
            if int(os.environ.get(size, 1)) > 1:
                return int(os.environ.get(number, 0))
        except ValueError:
            continue
    return 0


def _say_once(end: SystemExit, seconds: float = 3.0) -> None:
    """Let one of the processes that end with the same sentence print it, with its rank.

    Processes of torchrun share a folder that tells who was first. Elsewhere rank 0 gets some
    time to end; a launcher that then ends the others keeps them from printing.
    """
    number = _rank()
    if not isinstance(end.code, str):
        return
    code: str | int = f'rank {number}: {end.code}' if number else end.code
    file = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if file and int(os.environ.get('WORLD_SIZE', 1)) > 1:
        name = hashlib.sha256(end.code.encode('utf-8', 'surrogateescape')).hexdigest()[:16]
        try:
            os.close(os.open(Path(file).parent.parent / f'said_{name}', os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            code = 1
        except OSError:
            pass
    elif number:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except ValueError:  # not in the main thread
            pass
        time.sleep(seconds)
    end.code, end.args = code, (code,)


# ---- what is unexpected --------------------------------------------------------------------


def describe_environment() -> str:
    """Versions, platform and command, in one line, for a report."""
    found = [f'python {platform.python_version()}']
    for name in ('cotap_mm', *_VERSIONS):
        try:
            found.append(f'{name} {importlib.metadata.version(name)}')
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = f'CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs'
    return ', '.join([*found, cuda, platform.platform()])


def _tracker() -> str:
    """Where the installed package says that its issues are reported."""
    try:
        metadata = importlib.metadata.metadata('cotap_mm')
    except importlib.metadata.PackageNotFoundError:
        metadata = {}
    home = metadata.get('Home-page')
    if home and home.startswith('http'):
        return f'{home.rstrip("/")}/issues'
    return 'the issue tracker of the place that you have cotap_mm from'


def _print_unexpected(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print the traceback, and what a report of it needs."""
    sys.__excepthook__(kind, error, trace)
    number = _rank()
    where = f' (rank {number})' if number else ''
    print(
        f'\nThis error was not expected{where}. If it is not explained above, report it with the '
        f'traceback at {_tracker()}\n'
        f'command: {" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])}\n'
        f'versions: {describe_environment()}',
        file=sys.stderr,
    )


def _stdout_is_closed() -> bool:
    """Whether nobody reads stdout any more; then nothing more is written to it."""
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
        poll.register(number, 0)
        closed = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # not a file, or Windows
        return False
    if closed:  # Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return closed
