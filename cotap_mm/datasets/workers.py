"""How a loader's worker starts, and what it does about signals."""
import atexit
import os
import signal
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional, Sequence

import torch

from cotap_mm.registry import FUNCTIONS

# In memory that forked workers share. 1 while workers must survive a SIGTERM.
_needed = torch.zeros(1, dtype=torch.uint8).share_memory_()


def keep_workers(needed: bool) -> None:
    """Let the workers of this process live through a SIGTERM, or not.

    Schedulers and ``torchrun`` send it to all processes of a training. A worker that died
    of it would end the training in the middle of a step, before it can save.
    """
    _needed.fill_(int(needed))


# Runs before multiprocessing ends its workers with a SIGTERM and waits for them.
atexit.register(keep_workers, False)


@FUNCTIONS.register_module()
def start_worker(worker_id: int, **_: Any) -> None:
    """Start of a worker: SIGUSR1 is ignored, and SIGTERM where :func:`keep_workers` says so.

    It needs no seed: all draws follow from a :class:`Visit`.

    Args:
        worker_id (int): Given by the loader.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    if hasattr(signal, 'SIGUSR1'):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _on_sigterm(number: int, frame: Any) -> None:
    if not _needed:
        os._exit(0)


@contextmanager
def explained_deaths(being_read: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Say which images a worker was reading when it died.

    PyTorch notices it at any moment, not only where the loader is asked.

    Args:
        being_read (callable): Their names.

    Raises:
        RuntimeError: In place of PyTorch's, which names none.
    """
    try:
        yield
    except Exception as error:
        death: Optional[BaseException] = error
        while death is not None and not _is_death(death):  # it may have been taken for another
            death = death.__cause__ or death.__context__
        if death is None:
            raise
        raise RuntimeError(
            f'a process of the loader died ({death}). It was reading one of: '
            f'{", ".join(being_read()) or "nothing"}. Where it was killed for lack of memory, '
            'fewer train_dataloader.num_workers help; else look at these images. Nothing that was '
            'saved is lost: start again, with --resume') from error


def _is_death(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid')
