"""Timeouts of collectives, and the limits that follow from them."""

from __future__ import annotations

import os
import queue
import threading
from typing import Callable, TypeVar

import torch
import torch.distributed as dist

#: Environment variable: seconds after which waiting for another rank fails.
TIMEOUT = 'COTAP_DIST_TIMEOUT'
#: Timeout of PyTorch's process groups, in seconds.
DEFAULT_TIMEOUT = 1800.0
_MIN_SILENCE = 10.0  # seconds of silence to tolerate on a busy machine, whatever the timeout
T = TypeVar('T')


def timeout_of(config_timeout: float) -> float:
    """Timeout of collectives in seconds: ``COTAP_DIST_TIMEOUT`` if set, else the config's.

    Args:
        config_timeout (float): Timeout from the config, in seconds.

    Returns:
        float: Timeout in seconds.

    Raises:
        ValueError: If the variable is not a positive number.
    """
    given = os.environ.get(TIMEOUT)
    if not given:
        return config_timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ValueError(f'{TIMEOUT} must be a positive number of seconds, got {given!r}')
    return seconds


def limit_of(timeout: float) -> float:
    """Seconds of silence after which a rank or a data loader worker counts as lost.

    Shorter than the timeout, so that the cause is known before collectives fail.

    Args:
        timeout (float): Timeout of collectives, in seconds.
    """
    return max(0.8 * timeout, _MIN_SILENCE)


def group_timeout() -> float:
    """Timeout of the default process group, in seconds."""
    try:
        group = dist.distributed_c10d._get_default_group()
        device = torch.device('cuda' if dist.get_backend() == 'nccl' else 'cpu')
        return float(group._get_backend(device).options._timeout.total_seconds())
    except (AttributeError, RuntimeError):  # another version of PyTorch stores it elsewhere
        return DEFAULT_TIMEOUT


def within(seconds: float, work: Callable[[], T]) -> T:
    """Call ``work()`` with a timeout, even if it has none of its own.

    Args:
        seconds (float): Time limit.
        work (callable): Called in a thread. After the limit it keeps running until the process
            exits.

    Returns:
        object: The result of ``work``.

    Raises:
        TimeoutError: If it takes longer.
    """
    answer: queue.Queue = queue.Queue(1)

    def run() -> None:
        try:
            answer.put((work(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f'no answer within {seconds:.0f} s') from None
    if error is not None:
        raise error
    return result
