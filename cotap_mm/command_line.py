"""What the command-line tools have in common."""
import os
import sys
from contextlib import contextmanager
from typing import Iterator, Type

import torch
import torch.distributed as dist

from cotap_mm.rank_watch import timeout_of

_EXPECTED = (FileNotFoundError, ValueError, ImportError)


@contextmanager
def short_errors(*more: Type[Exception]) -> Iterator[None]:
    """End the program with the sentence of an error that a user can mend, without a traceback.

    With the environment variable ``COTAP_TRACEBACK`` set, errors stay as they are.

    Args:
        *more: Types of errors besides FileNotFoundError, ValueError and ImportError.
    """
    try:
        yield
    except (*_EXPECTED, *more) as error:
        if os.environ.get('COTAP_TRACEBACK'):
            raise
        sys.exit(f'error: {error}\n(COTAP_TRACEBACK=1 shows where)')


@contextmanager
def joined_processes(device: str) -> Iterator[str]:
    """The other processes, where torchrun has started several, as one group.

    Args:
        device (str): Asked for by the user.

    Yields:
        str: This process's own device.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        yield device
        return
    from cotap_mm.engine.network import join_group
    on_gpu = device.startswith('cuda')
    if on_gpu:
        device = f'cuda:{os.environ["LOCAL_RANK"]}'
        torch.cuda.set_device(device)
    join_group('nccl' if on_gpu else 'gloo', timeout_of(1800))
    try:
        yield device
    finally:
        dist.destroy_process_group()
