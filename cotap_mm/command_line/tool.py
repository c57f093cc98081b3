"""Run a command-line tool: report user errors in one line, and exit with the right status.

The ``main`` of every tool is decorated with :func:`tool`. It parses the command line, then imports
what takes seconds in :func:`slow_imports`. Set-up code runs in :func:`report_user_errors`. An error
that the user can act on is reported in one sentence on stderr, with exit status 2 for a wrong
command line and 1 otherwise. An unexpected exception keeps its traceback, followed by versions.
Tools never raise ``SystemExit('error: ...')`` themselves.
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

from cotap_mm import signals
from cotap_mm.diagnosis.packages import versions_of
from cotap_mm.error_text import sentence_of
from cotap_mm.errors import UserError

HINT = '(COTAP_TRACEBACK=1 shows where)'
_SETUP = (OSError, ValueError, ImportError)  # user errors as long as the run has not started
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


def tool(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate the ``main`` of a tool to report errors and set the exit status uniformly.

    * :class:`~cotap_mm.errors.UserError` and out of memory: one sentence, status 1.
    * Ctrl-C: a short line, status 130. A training saves first, see :mod:`cotap_mm.signals`.
    * A signal that asks it to stop (:mod:`cotap_mm.signals`): one sentence, status 75.
    * stdout is a closed pipe, as with ``| head``: no output, status 141.
    * Any other exception is unexpected: traceback, versions, and where to report it.

    If the environment variable ``COTAP_TRACEBACK`` is set, all exceptions keep their traceback.
    If several processes fail with the same sentence, only one of them prints it.

    Args:
        main (callable): Function of the arguments of the tool; None for those of the process.

    Returns:
        callable: The decorated function.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        _print_any_name()
        is_last = is_script() or main.__module__ == '__main__'
        try:
            with _expected_exits(), signals.listening(to_the_end=is_last):
                main(*args, **kwargs)
                sys.stdout.flush()
                if hasattr(signal, 'SIGCHLD') and is_last:
                    # PyTorch's handler reports dead workers, even while Python shuts down.
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except SystemExit as exit_:
            _print_once(exit_)
            raise
        except BaseException:
            sys.excepthook = _print_unexpected
            raise

    return run


_script: list[Callable[..., None]] = []


def run_script(main: Callable[..., None]) -> None:
    """Run the ``main`` of a tool as all that this process does.

    Signals after its end are ignored then, since they would only change its exit status.
    """
    _script.append(main)
    try:
        main()
    finally:
        _script.remove(main)


def is_script() -> bool:
    """Whether this process runs a tool by :func:`run_script`, and ends after it."""
    return bool(_script)


@contextmanager
def _expected_exits() -> Iterator[None]:
    """Convert expected exceptions into SystemExit."""
    try:
        with signals.restored():
            yield
    except KeyboardInterrupt as interrupt:
        if os.environ.get('COTAP_TRACEBACK'):
            raise
        if _rank() == 0:
            print('; '.join(['interrupted', *map(str, interrupt.args)]), file=sys.stderr)
        sys.exit(signals.INTERRUPTED)
    except signals.Stopped as stopped:
        if signals.status_of(stopped.name) != signals.INTERRUPTED or _rank() == 0:
            print(stopped, file=sys.stderr)
        raise
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        if os.environ.get('COTAP_TRACEBACK') or not _is_for_user(error):
            raise
        raise _to_exit(error) from error


@contextmanager
def slow_imports() -> Iterator[None]:
    """Import the packages of a tool in its ``main``, after the command line is parsed.

    A package that cannot be imported is reported in one line, with status 1. Ctrl-C or a signal
    that asks the tool to stop ends the process at once, since nothing has to be saved yet, and an
    imported package might catch the exception.

    Raises:
        SystemExit: Instead of an ImportError, unless ``COTAP_TRACEBACK`` is set.
    """
    with signals.listening(['SIGINT']), signals.exiting_at_once():
        try:
            yield
        except ImportError as error:
            if os.environ.get('COTAP_TRACEBACK'):
                raise
            raise _to_exit(error) from error


@contextmanager
def report_user_errors(
    *more: type[Exception], until: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Report user errors in one line instead of a traceback, and exit with status 1.

    While a run is being set up, user errors are every OSError, ValueError and ImportError, and
    the errors of OpenMMLab packages for a config that cannot be built. If the environment
    variable ``COTAP_TRACEBACK`` is set, errors are unchanged.

    Args:
        *more (type): Further types of user errors.
        until (callable): Returns whether the set-up is over; from then on only a UserError is
            reported in one line. Defaults to never.

    Raises:
        SystemExit: Instead of a user error.
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
        raise _to_exit(error) from error


def _print_any_name() -> None:
    """Let print() escape paths that are not UTF-8, as stderr does, instead of failing."""
    if getattr(sys.stdout, 'errors', None) == 'strict' and hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')


def _to_exit(error: BaseException) -> SystemExit:
    """Exit with the one-line report of a user error."""
    return SystemExit(f'error: {describe_error(error)}\n{HINT}')


def describe_error(error: BaseException) -> str:
    """Describe a user error in one sentence, with what to do.

    Args:
        error (BaseException): The error.

    Returns:
        str: Without the name of its type.
    """
    sentence = sentence_of(error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        sentence += '; check that it exists, is accessible and has free space, then start again'
    if _is_dead_worker(error):
        sentence = (
            f'a data loader worker died ({sentence.rstrip(". ")}); check the memory '
            'of the machine, then start again'
        )
    if _is_out_of_memory(error):
        sentence = (
            f'out of memory; use a smaller batch, smaller images, or another device ({sentence})'
        )
    return sentence


def _is_for_user(error: BaseException) -> bool:
    return isinstance(error, UserError) or _is_out_of_memory(error) or _is_dead_worker(error)


def _is_dead_worker(error: BaseException) -> bool:
    """Whether PyTorch reports a killed worker, which may happen anywhere, even at exit."""
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid')


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get('torch')  # if it is not imported, the error is not one of its own
    out_of_memory = getattr(getattr(torch, 'cuda', None), 'OutOfMemoryError', MemoryError)
    return isinstance(error, (MemoryError, out_of_memory)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _is_of_config(error: BaseException) -> bool:
    """Whether a config cannot be built because of a wrong type, option or value.

    MMEngine raises KeyError for unregistered types, Python raises TypeError for unknown
    arguments of a class, and the OpenMMLab packages assert their values.
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
    """Rank of this process according to its launcher; 0 for a single process."""
    for size, number in (('WORLD_SIZE', 'RANK'), ('SLURM_NTASKS', 'SLURM_PROCID')):
        try:
            if int(os.environ.get(size, 1)) > 1:
                return int(os.environ.get(number, 0))
        except ValueError:
            continue
    return 0


def _print_once(exit_: SystemExit, seconds: float = 3.0) -> None:
    """Let only one of the processes that exit with the same sentence print it, with its rank.

    Processes of torchrun share a folder, in which the first one creates a file. With other
    launchers the other ranks give rank 0 some time to exit; the launcher then kills them before
    they print.
    """
    number = _rank()
    if not isinstance(exit_.code, str):
        return
    code: str | int = f'rank {number}: {exit_.code}' if number else exit_.code
    file = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if file and int(os.environ.get('WORLD_SIZE', 1)) > 1:
        name = hashlib.sha256(exit_.code.encode('utf-8', 'surrogateescape')).hexdigest()[:16]
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
    exit_.code, exit_.args = code, (code,)


# ---- unexpected errors ---------------------------------------------------------------------


def describe_environment() -> str:
    """Versions and platform in one line, for a bug report."""
    found = versions_of(('cotap_mm', *_VERSIONS))
    versions = [f'python {platform.python_version()}', *map(' '.join, found.items())]
    try:
        import torch

        cuda = f'CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs'
    except Exception as error:  # a damaged PyTorch may be what is reported
        cuda = f'PyTorch cannot be imported ({type(error).__name__})'
    return ', '.join([*versions, cuda, platform.platform()])


def _tracker() -> str:
    """Issue tracker of the installed package."""
    try:
        metadata = importlib.metadata.metadata('cotap_mm')
    except importlib.metadata.PackageNotFoundError:
        metadata = {}
    home = metadata.get('Home-page')
    if home and home.startswith('http'):
        return f'{home.rstrip("/")}/issues'
    return 'the issue tracker of your source of cotap_mm'


def _print_unexpected(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print the traceback, and the facts for a bug report."""
    sys.__excepthook__(kind, error, trace)
    number = _rank()
    where = f' (rank {number})' if number else ''
    print(
        f'\nThis error is unexpected{where}. If it is not explained above, report it with the '
        f'traceback at {_tracker()}\n'
        f'command: {" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])}\n'
        f'versions: {describe_environment()}; cotap doctor --markdown reports more',
        file=sys.stderr,
    )


def _stdout_is_closed() -> bool:
    """Whether the reader of stdout has closed it; if so, redirect it to the null device."""
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
        poll.register(number, 0)
        closed = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # not a file, or Windows
        return False
    if closed:  # Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return closed
