"""Process groups of tools and trainings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from .failures import timeout_of
from .rendezvous import join_group


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
    on_gpu = device.startswith('cuda')
    if on_gpu:
        device = f'cuda:{os.environ["LOCAL_RANK"]}'
        torch.cuda.set_device(device)
    join_group('nccl' if on_gpu else 'gloo', timeout_of(1800))
    try:
        yield device
    finally:
        dist.destroy_process_group()
