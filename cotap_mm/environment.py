"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

import torch

from .version import __version__


def describe_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return dict(
        python=platform.python_version(), torch=str(torch.__version__), cotap_mm=__version__
    )


def environment_info(device: str = 'cpu') -> dict[str, str]:
    """Device, versions and date, to stand beside every figure.

    Args:
        device (str): Where it was measured. Defaults to 'cpu'.
    """
    name = (
        torch.cuda.get_device_name()
        if device.startswith('cuda')
        else f'{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads'
    )
    return dict(machine=name, **describe_versions(), date=time.strftime('%Y-%m-%d'))


def peak_bytes() -> int:
    """Most memory that this process has held, without that of its workers and of the GPU."""
    try:
        status = Path('/proc/self/status').read_text(encoding='ascii')
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.splitlines() if line.startswith('VmHWM'))  # in kB
    return int(line.split()[1]) * 1024
