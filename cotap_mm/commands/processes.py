"""``cotap train --gpus N``: start the processes of one machine, and exit with their status."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from cotap_mm import signals
from cotap_mm.command_line import resume_command
from cotap_mm.errors import UserError

#: Signals that ``torchrun`` forwards to its processes. By default SIGUSR1 would kill only itself.
_FORWARDED = 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'


def run_on_processes(words: Sequence[str], count: int, command: str) -> None:
    """Run ``cotap train`` in several processes, one per GPU, or on CPUs if there is no GPU.

    Signals are forwarded, see :mod:`cotap_mm.signals`. As with ``tools/dist_train.sh``, processes
    that still run 30 seconds after a signal are killed.

    Args:
        words (sequence): Arguments of ``cotap train``.
        count (int): Number of processes.
        command (str): Command that resumes the training, for messages.

    Raises:
        SystemExit: With the status of the processes, if it is not 0: 75 or 130 after a signal.
        UserError: If there are fewer GPUs, or a process was killed.
    """
    check_count(count)
    _set_environment(count, command)
    arguments = torchrun.parse_args(
        [
            f'--nproc_per_node={count}',
            '--master_addr=127.0.0.1',
            f'--master_port={_port()}',
            '-m',
            'cotap_mm',
            'train',
            *words,
            '--launcher',
            'pytorch',
        ]
    )
    if not os.environ.get('COTAP_TRACEBACK'):
        logging.disable(logging.ERROR)  # the processes report their errors themselves
    try:
        with signals.handed_over():
            if hasattr(signal, 'SIGUSR1'):  # older versions of torch do not handle it
                signal.signal(signal.SIGUSR1, _forward)
            torchrun.run(arguments)
    except SignalException as stopped:
        number = stopped.sigval
        known = number.name in signals.TRAINING_SIGNALS
        sys.exit(signals.status_of(number.name) if known else 128 + number)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise UserError(
                f'rank {rank} (process {failure.pid}) was killed by {name}; if memory ran out, '
                f'lower train_dataloader.batch_size or num_workers. If there is a checkpoint, '
                f'resume with: {command}'
            ) from error
        sys.exit(failure.exitcode)
    finally:
        logging.disable(logging.NOTSET)


def check_count(count: int) -> None:
    """Check the number of processes.

    Args:
        count (int): One process per GPU; any number if there is no GPU.

    Raises:
        UserError: If there are fewer GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if available and count > available:
        raise UserError(
            f'--gpus {count}: PyTorch sees {available} GPU{"s" if available > 1 else ""}; lower '
            'it, or check CUDA_VISIBLE_DEVICES (several machines: tools/dist_train.sh)'
        )


def _set_environment(count: int, command: str) -> None:
    """Set variables that the processes inherit."""
    os.environ[resume_command.VARIABLE] = command
    os.environ.setdefault('PET_SIGNALS_TO_HANDLE', _FORWARDED)
    # torchrun would set 1 thread, with a warning.
    os.environ.setdefault('OMP_NUM_THREADS', str(max((os.cpu_count() or 1) // count, 1)))
    source = Path(__file__).resolve().parents[2]
    if not {'site-packages', 'dist-packages'} & set(source.parts):  # a checkout, maybe elsewhere
        before = os.environ.get('PYTHONPATH')
        os.environ['PYTHONPATH'] = os.pathsep.join([str(source), *([before] if before else [])])


def _port() -> str:
    """Port for the processes to meet at; a free one unless the environment states it."""
    stated = os.environ.get('MASTER_PORT') or os.environ.get('PORT')
    if stated:
        return stated
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def _forward(number: int, frame: Any) -> None:
    name = signal.Signals(number)
    raise SignalException(f'process {os.getpid()} got {name.name}', sigval=name)
