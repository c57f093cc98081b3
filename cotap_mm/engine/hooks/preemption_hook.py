"""Save and stop when the machine is about to be taken away."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm import signals as stop_signals
from cotap_mm.datasets.workers import keep_workers
from cotap_mm.distributed.collectives import all_reduce_max
from cotap_mm.registry import HOOKS
from cotap_mm.signals import EXIT_STATUS

from .atomic_checkpoint_hook import AtomicCheckpointHook, last_checkpoint

__all__ = ['EXIT_STATUS', 'PreemptionHook', 'was_preempted']


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a signal, finish the step, save, and end; ``tools/train.py`` exits with 75.

    One rank that gets the signal is enough. A training that waits for its next batch is
    saved and stopped there. A second signal, another one or the same after 3 seconds,
    ends the process at once; files that are being written then are left behind under
    another name, and the last checkpoint is untouched. Before training and between its
    steps, see :mod:`cotap_mm.signals`.

    Args:
        signals (Sequence[str]): Defaults to SIGTERM (schedulers, ``torchrun``) and
            SIGUSR1 (Slurm's ``--signal=USR1@120``).

    Raises:
        ValueError: If there is no such signal.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        for name in signals:
            if not hasattr(signal, name):
                raise ValueError(f'signals must be names such as SIGTERM, got {name!r}')
        self.names = tuple(signals)
        self.stopped = False
        self._start = 0  # iterations done before
        self._contexts = ExitStack()

    @property
    def signals(self) -> list:
        """Numbers of the signals that it obeys."""
        return [getattr(signal, name) for name in self.names]

    @property
    def received(self) -> str:
        """Name of the signal that this process has got; '' if none."""
        return stop_signals.received()

    def before_train(self, runner) -> None:
        """From now on a signal does not interrupt a step."""
        keep_workers(True)
        self._start = runner.iter
        self._contexts.enter_context(stop_signals.listening(self.names))
        self._contexts.enter_context(stop_signals.deferred())
        stop_signals.set_advice(lambda: last_checkpoint(runner))

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Save and stop, if any rank has been asked to."""
        asked = torch.tensor(int(bool(self.received)))
        if not all_reduce_max(asked) or not runner.optim_wrapper.should_update():
            return
        self._stop(runner, runner.iter + 1)

    def stop_between_steps(self, runner) -> None:
        """Save and stop between two steps, e.g. where no batch comes.

        Raises:
            Stopped: If there is nothing to save, before the first step.
        """
        if runner.iter == self._start:
            raise stop_signals.Stopped(self.received)
        self._stop(runner, runner.iter)

    def _stop(self, runner, done: int) -> None:
        with stop_signals.deferred():
            print_log(
                f'{self.received or "a signal on another rank"}: saving iteration {done} '
                'and stopping; --resume continues',
                logger='current',
                level=logging.WARNING,
            )
            for hook in runner.hooks:
                if isinstance(hook, AtomicCheckpointHook):
                    hook.save_now(runner, done)
            self.stopped = True
            runner.train_loop.stop_training = True

    def after_train(self, runner) -> None:
        """Signals do again what they did before training."""
        self.close()

    def close(self) -> None:
        """As :meth:`after_train`, where an error has ended the training."""
        keep_workers(False)
        self._contexts.close()


def was_preempted(runner) -> bool:
    """Whether a training has ended because of a signal."""
    return any(isinstance(hook, PreemptionHook) and hook.stopped for hook in runner.hooks)
