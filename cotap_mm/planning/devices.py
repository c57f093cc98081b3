"""The GPUs, or the CPU, that a training would use, and how fast they multiply matrices."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Optional

import torch

from cotap_mm.diagnosis.hardware import Machine, inspect_machine

_REPEATS = 5


@dataclass
class Device:
    """What a training runs on.

    Attributes:
        kind (str): 'cuda' or 'cpu'.
        name (str): Name of the GPU or CPU.
        count (int): Number of GPUs; 1 for a CPU.
        memory (int): Free bytes, of the fullest GPU.
        rate (float): Operations per second of one GPU, or of the CPU, in a large matrix product
            with the data type that a training uses; 0 if it was not measured.
        dtype (str): That data type.
        cores (float): CPU cores that the process may use.
    """

    kind: str
    name: str
    count: int
    memory: int
    rate: float
    dtype: str
    cores: float


def inspect_device(
    gpus: Optional[int] = None, machine: Optional[Machine] = None, measure: bool = True
) -> Device:
    """Describe the device that a training would use on this machine.

    Args:
        gpus (int, optional): Number of GPUs to use; 0 for the CPU. Defaults to None, all.
        machine (Machine, optional): Facts about the machine. Defaults to None, this one.
        measure (bool): Whether to time a matrix product, which takes up to seconds. Defaults to
            True.

    Returns:
        Device: The device.

    Raises:
        ValueError: If there are fewer GPUs.
    """
    machine = machine or inspect_machine()
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is not None and gpus > found:
        raise ValueError(f'--gpus {gpus}: PyTorch finds {found} GPUs; give at most {found}')
    count = found if gpus is None else gpus
    if not count:
        rate = matmul_rate('cpu', torch.float32) if measure else 0.0
        return Device(
            'cpu', machine.processor, 1, machine.free_memory, rate, 'float32', machine.usable_cores
        )
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return Device(
        'cuda',
        torch.cuda.get_device_name(0),
        count,
        min(torch.cuda.mem_get_info(index)[0] for index in range(count)),
        matmul_rate('cuda', dtype) if measure else 0.0,
        str(dtype).replace('torch.', ''),
        machine.usable_cores,
    )


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, a multiply-add being two.

    Args:
        device (str): 'cpu' or 'cuda'.
        dtype (torch.dtype): Type of the factors.

    Returns:
        float: Median of a few products.
    """
    size = 4096 if device == 'cuda' else 1024
    first = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        first @ first
        if device == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])  # the first one is slow
