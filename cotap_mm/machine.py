"""Where and with what a figure was measured."""
import os
import platform
import time
from typing import Dict

import torch

from .version import __version__


def describe_versions() -> Dict[str, str]:
    """Versions that a result depends on."""
    return dict(python=platform.python_version(), torch=str(torch.__version__),
                cotap_mm=__version__)


def describe_machine(device: str = 'cpu') -> Dict[str, str]:
    """Device, versions and date, to stand beside every figure.

    Args:
        device (str): Where it was measured. Defaults to 'cpu'.
    """
    name = (torch.cuda.get_device_name() if device.startswith('cuda') else
            f'{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads')
    return dict(machine=name, **describe_versions(), date=time.strftime('%Y-%m-%d'))
