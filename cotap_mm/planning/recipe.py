"""A proposed training, and the command that starts it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any, Optional

from .capacity import Capacity


@dataclass
class Recipe:
    """A proposed training.

    Attributes:
        config (str): Name of the config.
        gpus (int): Number of GPUs; 0 for the CPU.
        batch (int): Images per GPU.
        accumulation (int): Steps whose gradients are accumulated.
        iterations (int): Number of steps.
        workers (int): Loader workers per GPU.
        global_size (int): Side of a global crop in pixels.
        local_size (int): Side of a local crop in pixels.
        options (dict[str, object]): Keys of the config that differ, for ``--cfg-options``.
        memory (float): Estimated bytes per GPU, or of the process.
        seconds (tuple[float, float]): Estimated seconds per step, lowest and highest; zeros if
            nothing is known.
        is_measured (bool): Whether memory and seconds were measured with a few steps.
        notes (list[str]): Reasons and limits.
        capacities (list[Capacity]): What fits on usual GPUs.
    """

    config: str
    gpus: int
    batch: int
    accumulation: int
    iterations: int
    workers: int
    global_size: int
    local_size: int
    options: dict[str, Any] = field(default_factory=dict)
    memory: float = 0.0
    seconds: tuple[float, float] = (0.0, 0.0)
    is_measured: bool = False
    notes: list[str] = field(default_factory=list)
    capacities: list[Capacity] = field(default_factory=list)

    @property
    def images_per_update(self) -> int:
        """Images of one step of the optimizer."""
        return self.batch * self.accumulation * max(self.gpus, 1)

    @property
    def hours(self) -> tuple[float, float]:
        """Estimated duration of the training in hours, lowest and highest."""
        low, high = (self.iterations * each / 3600 for each in self.seconds)
        return low, high

    def arguments(
        self, images: str, ann_file: Optional[str] = None, value_range: Any = None
    ) -> list[str]:
        """Return the arguments of ``cotap train``.

        Args:
            images (str): Folder, list or packed file.
            ann_file (str, optional): List of the images in it. Defaults to None.
            value_range (sequence, optional): LOW and HIGH. Defaults to None.
        """
        words = [self.config, '--images', images]
        if self.gpus > 1:
            words += ['--launcher', 'pytorch']
        if ann_file:
            words += ['--ann-file', ann_file]
        if value_range:
            words += ['--value-range', *(f'{value:g}' for value in value_range)]
        if self.options:
            values = {key: str(value).replace(' ', '') for key, value in self.options.items()}
            words += ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]
        return words

    def command(self, arguments: list[str]) -> str:
        """Return the command that starts the training with these arguments, for a shell."""
        start = ['cotap', 'train']
        if self.gpus > 1:
            start = ['torchrun', '--nproc_per_node', str(self.gpus), '-m', 'cotap_mm', 'train']
        return shlex.join([*start, *arguments])
