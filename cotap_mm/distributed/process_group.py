"""Start the process group of a training or of a tool."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.logging import print_log

from .failures import report_unresponsive_ranks, start_watch
from .rendezvous import join_group, rendezvous_store, set_gloo_interface
from .slurm import set_variables_from_slurm
from .timeouts import DEFAULT_TIMEOUT, timeout_of


def start_processes(config: Config) -> None:
    """Initialize the process group of a training, if a launcher started several processes.

    Call it before the Runner is built, since the neighbor file is built once for all ranks.
    MMEngine's launcher selects a CUDA device in each process and wraps the model for it, for
    Slurm as for ``torchrun`` (see :func:`.set_variables_from_slurm`). Without a GPU the group is
    created here with gloo, and the model wrapper is configured for it. A collective that gets no
    answer for ``env_cfg.dist_cfg.timeout`` seconds, or those of the environment variable
    ``COTAP_DIST_TIMEOUT``, aborts the run.

    Args:
        config (Config): Config with ``launcher`` and ``model``; on CPUs, changed in place.

    Raises:
        ValueError: If the launcher needs GPUs and there are none.
        LostRank: If the processes do not reach each other in time.
    """
    launcher = config.get('launcher', 'none')
    if launcher == 'none':
        return
    options = dict(config.get('env_cfg', {}).get('dist_cfg', {}))
    options['timeout'] = timeout_of(options.get('timeout', DEFAULT_TIMEOUT))
    if launcher == 'slurm':
        set_variables_from_slurm(options.pop('port', None))
        launcher = 'pytorch'
    if torch.cuda.is_available():
        group = rendezvous_store(options['timeout']) if launcher == 'pytorch' else {}
        watch = (
            start_watch(group['rank'], group['world_size'], options['timeout']) if group else None
        )
        with report_unresponsive_ranks(watch=watch):
            init_dist(launcher, **options, **group)
        return
    if launcher != 'pytorch':
        raise ValueError(
            f'launcher {launcher!r} needs GPUs, and none is visible; use '
            'tools/dist_train.sh to train on several CPU processes'
        )
    set_gloo_interface()
    join_group('gloo', options['timeout'])
    config.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    if _replace_sync_bn(config.model):
        print_log(
            'SyncBN needs GPUs; each CPU process normalizes its own images with BN instead',
            logger='current',
            level=logging.WARNING,
        )


def _replace_sync_bn(part: Any) -> int:
    """Replace every SyncBN in a model config by BN; returns their number."""
    if isinstance(part, (list, tuple)):
        return sum(_replace_sync_bn(value) for value in part)
    if not isinstance(part, dict):
        return 0
    is_sync_bn = part.get('type') == 'SyncBN'
    if is_sync_bn:
        part['type'] = 'BN'
    return is_sync_bn + sum(_replace_sync_bn(value) for value in part.values())


@contextmanager
def joined_processes(device: str) -> Iterator[str]:
    """Join the process group of a tool, if torchrun started several processes.

    Args:
        device (str): Device requested by the user.

    Yields:
        str: Device of this process.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        yield device
        return
    on_gpu = device.startswith('cuda')
    if on_gpu:
        device = f'cuda:{os.environ["LOCAL_RANK"]}'
        torch.cuda.set_device(device)
    join_group('nccl' if on_gpu else 'gloo', timeout_of(DEFAULT_TIMEOUT))
    try:
        yield device
    finally:
        dist.destroy_process_group()
