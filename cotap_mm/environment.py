"""Hardware and versions that a measurement depends on."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

import torch

from .version import __version__


def describe_versions() -> dict[str, str]:
    """Versions of Python, PyTorch and cotap_mm."""
    return dict(
        python=platform.python_version(), torch=str(torch.__version__), cotap_mm=__version__
    )


def environment_info(device: str = 'cpu') -> dict[str, str]:
    """Device, versions and date, to be reported with every measurement.

    Args:
        device (str): Device of the measurement. Defaults to 'cpu'.

    Returns:
        dict[str, str]: ``machine``, ``python``, ``torch``, ``cotap_mm`` and ``date``.
    """
    name = (
        torch.cuda.get_device_name()
        if device.startswith('cuda')
        else f'{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads'
    )
    return dict(machine=name, **describe_versions(), date=time.strftime('%Y-%m-%d'))


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes, without its workers and the GPU."""
    try:
        status = Path('/proc/self/status').read_text(encoding='ascii')
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.splitlines() if line.startswith('VmHWM'))  # in kB
    return int(line.split()[1]) * 1024
