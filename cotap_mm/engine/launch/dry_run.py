"""Dry run: train a few steps and report time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cotap_mm import signals
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.distributed.collectives import world_size
from cotap_mm.environment import peak_bytes
from cotap_mm.registry import DATASETS, option_of

STEPS = 4  # the first ones are slow
_NO_FILE = 'placeholders of a dry run'  # instead of a neighbor file


class _StopDryRun(Exception):
    """Raised after the last step of a dry run."""


class _StepTimer(Hook):
    """Measure the time of each iteration, and stop after the last one."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.waiting: list[float] = []
        self._step_ended = self._data_ready = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        self._step_ended = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._data_ready = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._step_ended)
        self.waiting.append(self._data_ready - self._step_ended)
        self._step_ended = now
        if len(self.seconds) == STEPS:
            raise _StopDryRun


class PlaceholderNeighbors:
    """Neighbors that need no memory and no file: the images that follow each image in the list.

    Args:
        count (int): Number of images, N.
        num_neighbors (int): Number of neighbors of each image, k; at most N - 1 are used.
    """

    def __init__(self, count: int, num_neighbors: int) -> None:
        self.shape = count, min(num_neighbors, count - 1)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """Neighbors of an image, shape (k,), int64."""
        return (index + np.arange(1, self.shape[1] + 1)) % len(self)


def placeholder_neighbors(config: Config, sources: Mapping[str, ImageSource]) -> list[str]:
    """Give the branches with ``neighbors='auto'`` placeholders instead of a search.

    Args:
        config (Config): A pre-training config; changed in place.
        sources (Mapping[str, ImageSource]): Opened images of the branches ``'patch'`` and
            ``'cls'``; they keep the placeholders for the data set.

    Returns:
        list[str]: The branches, with their numbers of images, whose neighbors a real run has to
        compute first.
    """
    dataset, missing = config.train_dataloader.dataset, []
    for branch, key in (('patch', 'neighbors'), ('cls', 'cls_neighbors')):
        if dataset.get(key) == 'auto' and branch in sources:
            source = sources[branch]
            count = option_of(DATASETS, dataset, 'num_neighbors')
            dataset[key] = _NO_FILE
            rows = PlaceholderNeighbors(len(source), count)
            source.loaded_neighbors = [_NO_FILE, count, rows]  # type: ignore[attr-defined]
            missing.append(f'{branch} ({len(source)} images)')
    return missing


def dry_run(runner: Runner) -> dict[str, float]:
    """Train for :data:`STEPS` steps and measure them.

    Args:
        runner (Runner): Its work folder should be a temporary one.

    Returns:
        dict: ``seconds`` per step (median without the first step), ``waiting`` for data, the
        part of ``seconds`` spent in the data loader, ``iterations`` of the whole training,
        ``samples`` per step on all ranks, peak ``memory`` in bytes (of the GPU if there is
        one), ``available`` memory in bytes (0 if unknown), and the number of trainable
        ``parameters``.

    Raises:
        ValueError: If a step runs out of GPU memory.
    """
    timer = _StepTimer()
    runner.register_hook(timer)
    try:
        runner.train()
        if signals.received():
            raise signals.Stopped(signals.received())
    except _StopDryRun:
        runner.call_hook('after_train')
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(
            f'a training step runs out of GPU memory ({error}). Lower '
            'train_dataloader.batch_size, or set model.backbone.with_cp=True'
        ) from error
    on_gpu = torch.cuda.is_available()
    loader = runner.train_dataloader  # batch_size is None if it has a batch_sampler
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)
    count = sum(param.numel() for param in runner.model.parameters() if param.requires_grad)
    return dict(
        seconds=statistics.median(timer.seconds[1:] or timer.seconds),
        waiting=statistics.median(timer.waiting[1:] or timer.waiting),
        iterations=runner.max_iters,
        parameters=count,
        samples=batch * world_size(),
        memory=torch.cuda.max_memory_allocated() if on_gpu else peak_bytes(),
        available=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
    )


def describe_dry_run(result: dict[str, float], missing: list[str]) -> str:
    """Summarize the results of :func:`dry_run` and :func:`placeholder_neighbors`.

    Args:
        result (dict): Returned by :func:`dry_run`.
        missing (list[str]): Returned by :func:`placeholder_neighbors`.

    Returns:
        str: A few lines.
    """
    hours = result['seconds'] * result['iterations'] / 3600
    memory = f'{result["memory"] / 2**30:.1f} GB'
    if result['available']:
        memory += f' of {result["available"] / 2**30:.0f} GB'
    lines = [
        f'dry run passed: {result["parameters"] / 1e6:.1f} M trainable parameters, '
        f'{result["samples"]:.0f} samples per step',
        f'a step takes {result["seconds"]:.2f} s, of which {result["waiting"]:.2f} s are spent '
        f'waiting for data; {result["iterations"]:.0f} iterations take about {hours:.1f} hours',
        f'peak memory of this process: {memory}',
    ]
    if result['waiting'] > 0.2 * result['seconds']:
        lines.append('the data loader is too slow; a higher train_dataloader.num_workers may help')
    if missing:
        lines.append(f'not tested: a run first computes neighbors for {" and ".join(missing)}')
    return '\n'.join(lines)
