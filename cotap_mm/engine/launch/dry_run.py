"""A few steps of a training that leave nothing behind: does it run, how long, how much memory."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm import signals
from cotap_mm.datasets import save_neighbors
from cotap_mm.distributed.collectives import world_size
from cotap_mm.environment import peak_bytes
from cotap_mm.registry import DATASETS, build

STEPS = 4  # the first ones are slow


class _StopDryRun(Exception):
    """All steps of the trial are done."""


class _StepTimer(Hook):
    """Takes the time of each iteration and stops behind the last one."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.waiting: list[float] = []
        self._behind_last = self._behind_data = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        self._behind_last = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._behind_data = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._behind_last)
        self.waiting.append(self._behind_data - self._behind_last)
        self._behind_last = now
        if len(self.seconds) == STEPS:
            raise _StopDryRun


def placeholder_neighbors(config: Config, folder: str | Path) -> list[str]:
    """Let each image have the next ones as neighbours where they are still to be found.

    Args:
        config (Config): Of a pre-training; changed in place.
        folder (str | Path): Where the files go.

    Returns:
        list[str]: The branches whose neighbours a real run has to find first.
    """
    dataset, missing = config.train_dataloader.dataset, []
    for branch, key in (('patch', 'neighbors'), ('cls', 'cls_neighbors')):
        if dataset.get(key) == 'auto' and dataset.get(branch):
            source = build(DATASETS, dataset[branch])
            count = len(source)
            nearest = np.arange(1, min(count, dataset.get('num_neighbors', 7) + 1))
            dataset[key] = str(Path(folder) / f'{key}.npz')
            save_neighbors(
                dataset[key],
                [source.name(index) for index in range(count)],
                (np.arange(count)[:, None] + nearest) % count,
            )
            missing.append(f'{branch} ({count} images)')
    return missing


def dry_run(runner: Runner) -> dict[str, float]:
    """Train for :data:`STEPS` steps.

    Args:
        runner (Runner): Its work folder should be one that is thrown away.

    Returns:
        dict: ``seconds`` of a step (median without the first), ``waiting`` for data of it,
        ``iterations`` in all, ``samples`` a step on all ranks, ``memory`` in bytes at the
        peak (of the GPU if there is one), ``available`` bytes there (0 if unknown), and
        ``parameters`` that learn.

    Raises:
        ValueError: If a step does not fit into the GPU.
    """
    watch = _StepTimer()
    runner.register_hook(watch)
    try:
        runner.train()
        if signals.received():
            raise signals.Stopped(signals.received())
    except _StopDryRun:
        runner.call_hook('after_train')
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(
            f'a step does not fit into the memory of the GPU ({error}). Lower '
            'train_dataloader.batch_size, or set model.backbone.with_cp=True'
        ) from error
    on_gpu = torch.cuda.is_available()
    loader = runner.train_dataloader  # without batch_size where it has a batch_sampler
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)
    count = sum(param.numel() for param in runner.model.parameters() if param.requires_grad)
    return dict(
        seconds=statistics.median(watch.seconds[1:] or watch.seconds),
        waiting=statistics.median(watch.waiting[1:] or watch.waiting),
        iterations=runner.max_iters,
        parameters=count,
        samples=batch * world_size(),
        memory=torch.cuda.max_memory_allocated() if on_gpu else peak_bytes(),
        available=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
    )


def describe_trial(found: dict[str, float], missing: list[str]) -> str:
    """What :func:`dry_run` and :func:`placeholder_neighbors` found, in sentences."""
    hours = found['seconds'] * found['iterations'] / 3600
    memory = f'{found["memory"] / 2**30:.1f} GB'
    if found['available']:
        memory += f' of {found["available"] / 2**30:.0f} GB'
    lines = [
        f'the training can start: {found["parameters"] / 1e6:.1f} M parameters learn, '
        f'{found["samples"]:.0f} samples a step',
        f'a step takes {found["seconds"]:.2f} s, of which {found["waiting"]:.2f} s are waiting for '
        f'data; {found["iterations"]:.0f} iterations are about {hours:.1f} hours',
        f'memory at its peak, in this process: {memory}',
    ]
    if found['waiting'] > 0.2 * found['seconds']:
        lines.append('the loader is too slow: more train_dataloader.num_workers may help')
    if missing:
        lines.append(f'not tried: a run first finds the neighbours of {" and ".join(missing)}')
    return '\n'.join(lines)
