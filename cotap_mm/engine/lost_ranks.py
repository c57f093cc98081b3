"""When one process of a run dies or stalls: which one, said by those that are left."""
import datetime
import os
import re
import time
from contextlib import contextmanager
from typing import Callable, Iterator, List

import torch.distributed as dist

from cotap_mm.ops import rank, world_size

#: Environment variable with the seconds after which a collective gives up.
TIMEOUT = 'COTAP_DIST_TIMEOUT'

# What gloo, NCCL and torch say when a collective has no answer.
_NO_ANSWER = re.compile(
    r'timed out|timeout|connection (closed|reset|refused|was likely closed)|broken pipe|'
    r'communicator was aborted|socket|remote process exited|no response', re.IGNORECASE)
_PATIENCE = 5.0  # seconds for the others to say that they are there


def timeout_of(config_timeout: float) -> float:
    """Seconds after which a collective gives up: ``COTAP_DIST_TIMEOUT``, else the config's.

    Raises:
        ValueError: If the variable is no positive number.
    """
    given = os.environ.get(TIMEOUT)
    if not given:
        return config_timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f'{TIMEOUT} must be a positive number of seconds, got {given!r}')
    return seconds


@contextmanager
def explained_losses(iteration: Callable[[], int]) -> Iterator[None]:
    """Say which ranks do not answer where a collective has failed.

    Those that fail write so into the store of the process group, and look who else does;
    a rank that has died or hangs does not.

    Args:
        iteration (callable): How far this process is.

    Raises:
        RuntimeError: Instead of the failure of a collective, with a sentence.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not _NO_ANSWER.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise RuntimeError(f'rank {rank()}, iteration {iteration()}: {_describe(_missing())}. '
                           f'Its own output, or the log of its machine, says more; --resume goes '
                           f'on from the last checkpoint ({reason})') from error


def _describe(missing: List[int]) -> str:
    if not missing:
        return 'the connection to another process was lost, and all of them are there'
    names = ', '.join(map(str, missing))
    return (f'rank {names} does not answer' if len(missing) == 1 else
            f'ranks {names} do not answer') + ': died (out of memory?) or hangs'


def _missing() -> List[int]:
    """Ranks that have not said, within some seconds, that they wait as well."""
    others = [other for other in range(world_size()) if other != rank()]
    try:
        store = dist.TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']),
                              is_master=False, timeout=datetime.timedelta(seconds=_PATIENCE))
        # Restarts share the store.
        key = f'cotap_mm/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}/waits/'
        store.set(f'{key}{rank()}', '1')
        deadline = time.monotonic() + _PATIENCE
        while others and time.monotonic() < deadline:
            others = [other for other in others if not store.check([f'{key}{other}'])]
            time.sleep(0.2)
        return others
    except (KeyError, ValueError, RuntimeError):
        return [0] if rank() else others  # rank 0, or what has started it, holds the store
