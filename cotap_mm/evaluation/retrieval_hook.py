"""Dense retrieval while training."""
from __future__ import annotations

import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from cotap_mm.registry import HOOKS

from .dense_retrieval import dense_retrieval
from .labeled_images import build_labeled
from .vit_encoders import CoTAPEncoder


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Give Python's, NumPy's and PyTorch's random states back at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    # Only the device in use: forking all GPUs of a node is slow, and warned about.
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@HOOKS.register_module()
class DenseRetrievalHook(Hook):
    """Measure dense retrieval before training, every n iterations, and at the end.

    Every rank does the same work and there is no collective, so nothing can hang;
    only MMEngine's visualizer, which is active on rank 0, writes. Training goes on as
    if nothing had happened: train/eval modes and random states are given back.

    Example::

        custom_hooks = [
            dict(type='DenseRetrievalHook', interval=2000, num_classes=11,
                 memory=dict(type='ImageMaskFolder', images='images/train',
                             labels='labels/train'),
                 queries=dict(type='ImageMaskFolder', images='images/val', labels='labels/val'),
                 options=dict(image_size=(360, 480), memory_size=100_000))]

    The values stand as ``dense_retrieval/mIoU_<branch>`` (output 'filter') or
    ``dense_retrieval/mIoU_<branch>_backbone``, in per cent, in the message hub and in
    the visualizer's backends.

    Args:
        memory: Labelled images as data set or config; see :func:`build_labeled`.
        queries: The same, for the images to segment.
        num_classes (int): Number of classes.
        interval (int): Iterations between two measurements. Defaults to 1000.
        measure (sequence): Pairs (branch, output). Defaults to student and teacher,
            output 'filter'.
        options (dict, optional): Further arguments of :func:`dense_retrieval`, such as
            k, memory_size or image_size.

    Raises:
        ValueError: If the interval is not positive.
    """

    # After the EMA hook (NORMAL), which moves the teacher; before the logger.
    priority = 'LOW'

    def __init__(self,
                 memory: Any,
                 queries: Any,
                 num_classes: int,
                 interval: int = 1000,
                 measure: Sequence[Tuple[str, str]] = (('student', 'filter'), ('teacher',
                                                                               'filter')),
                 options: Optional[Dict[str, Any]] = None) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1 iteration, got {interval}')
        self.memory, self.queries = build_labeled(memory), build_labeled(queries)
        self.num_classes = num_classes
        self.interval = interval
        self.measure = [tuple(pair) for pair in measure]
        self.options = dict(options or {})

    def before_train(self, runner: Runner) -> None:
        """Measure where training starts."""
        self.evaluate(runner, runner.iter)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Measure every ``interval`` iterations, and after the last one."""
        if (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            self.evaluate(runner, runner.iter + 1)

    def evaluate(self, runner: Runner, step: int) -> Dict[str, float]:
        """Measure now and log.

        Args:
            runner (Runner): Holds the model, message hub and visualizer.
            step (int): Iterations done.

        Returns:
            dict: Name of each value -> mIoU in per cent.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        values = {}
        with preserve_random_state():
            for branch, output in self.measure:
                scores = dense_retrieval(
                    CoTAPEncoder(model, branch, output), self.memory, self.queries,
                    self.num_classes, **self.options)
                suffix = '' if output == 'filter' else f'_{output}'
                values[f'dense_retrieval/mIoU_{branch}{suffix}'] = scores['mIoU']
        for name, value in values.items():
            runner.message_hub.update_scalar(name, value)
        runner.visualizer.add_scalars(values, step=step)
        runner.logger.info(f'iteration {step}: ' + ', '.join(f'{name} {value:.2f}'
                                                             for name, value in values.items()))
        return values
