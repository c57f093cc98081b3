"""Translate the variables of Slurm into those that ``torchrun`` would set."""

from __future__ import annotations

import os
import re
import subprocess

import torch

_PORT = 29500  # PyTorch's default


def set_variables_from_slurm(port: int | None = None) -> None:
    """Set ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``.

    ``MASTER_ADDR`` and ``MASTER_PORT`` (or ``PORT``) are kept if they are set. By default the
    address is that of the first node of the step.

    Args:
        port (int, optional): Port that overrides ``MASTER_PORT``. Defaults to None.

    Raises:
        ValueError: If this process was not started by ``srun``, or the first node is unknown.
    """
    try:
        number, count = int(os.environ['SLURM_PROCID']), int(os.environ['SLURM_NTASKS'])
        local = int(os.environ.get('SLURM_LOCALID') or number % max(torch.cuda.device_count(), 1))
    except (KeyError, ValueError) as error:
        raise ValueError(
            "launcher 'slurm' needs the variables that srun sets, such as SLURM_PROCID "
            f'and SLURM_NTASKS ({error}); start with tools/slurm_train.sh'
        ) from error
    os.environ.update(RANK=str(number), WORLD_SIZE=str(count), LOCAL_RANK=str(local))
    os.environ['MASTER_PORT'] = str(
        port or os.environ.get('MASTER_PORT') or os.environ.get('PORT') or _PORT
    )
    if not os.environ.get('MASTER_ADDR'):
        os.environ['MASTER_ADDR'] = _first_node()


def _first_node() -> str:
    """Host name of the first node of the step or job."""
    names = next(
        (
            os.environ[name]
            for name in ('SLURM_STEP_NODELIST', 'SLURM_JOB_NODELIST', 'SLURM_NODELIST')
            if os.environ.get(name)
        ),
        '',
    )
    if re.fullmatch(r'[\w.-]+', names):
        return names
    reason = 'SLURM_STEP_NODELIST is not set'
    if names:
        try:
            done = subprocess.run(
                ['scontrol', 'show', 'hostnames', names], capture_output=True, text=True, timeout=60
            )
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
            reason = f'scontrol show hostnames {names}: {done.stderr.strip() or "no answer"}'
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f'scontrol show hostnames {names}: {error}'
    raise ValueError(
        f'the first node of the Slurm job is unknown ({reason}); set MASTER_ADDR to its host name'
    )
