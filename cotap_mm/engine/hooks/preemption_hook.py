"""Save and stop when the scheduler is about to preempt the machine."""

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
    """After a signal, finish the step, save, and stop; ``cotap train`` exits with 75.

    It is enough that one rank receives the signal. A training that waits for its next batch is
    saved and stopped there. A second signal exits the process immediately; repeats of the same
    signal within 3 seconds are ignored. Files that are being written then remain under their
    temporary names, and the last checkpoint is not affected. For signals before training and
    between steps see :mod:`cotap_mm.signals`.

    Args:
        signals (Sequence[str]): Names of signals. Defaults to SIGTERM (schedulers,
            ``torchrun``) and SIGUSR1 (Slurm's ``--signal=USR1@120``).

    Raises:
        ValueError: If a signal does not exist.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        for name in signals:
            if not hasattr(signal, name):
                raise ValueError(f'signals must be names such as SIGTERM, got {name!r}')
        self.names = tuple(signals)
        self.stopped = False
        self._start = 0  # iterations completed before this process
        self._contexts = ExitStack()

    @property
    def signals(self) -> list:
        """Numbers of the signals that stop the training."""
        return [getattr(signal, name) for name in self.names]

    @property
    def received(self) -> str:
        """Name of the signal that this process has received; '' if none."""
        return stop_signals.received()

    def before_train(self, runner) -> None:
        """Install signal handlers that do not interrupt a step."""
        keep_workers(True)
        self._start = runner.iter
        self._contexts.enter_context(stop_signals.listening(self.names))
        self._contexts.enter_context(stop_signals.deferred())
        stop_signals.set_advice(lambda: last_checkpoint(runner))

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Save and stop if any rank has received a signal."""
        asked = torch.tensor(int(bool(self.received)))
        if not all_reduce_max(asked) or not runner.optim_wrapper.should_update():
            return
        self._stop(runner, runner.iter + 1)

    def stop_between_steps(self, runner) -> None:
        """Save and stop between two steps, e.g. while waiting for a batch.

        Raises:
            Stopped: Before the first step, when there is nothing to save.
        """
        if runner.iter == self._start:
            raise stop_signals.Stopped(self.received)
        self._stop(runner, runner.iter)

    def _stop(self, runner, done: int) -> None:
        with stop_signals.deferred():
            print_log(
                f'{self.received or "a signal on another rank"}: saving iteration {done} '
                'and stopping; resume with --resume',
                logger='current',
                level=logging.WARNING,
            )
            for hook in runner.hooks:
                if isinstance(hook, AtomicCheckpointHook):
                    hook.save_now(runner, done)
            self.stopped = True
            runner.train_loop.stop_training = True

    def after_train(self, runner) -> None:
        """Restore the previous signal handlers."""
        self.close()

    def close(self) -> None:
        """Restore the previous signal handlers, also after an error."""
        keep_workers(False)
        self._contexts.close()


def was_preempted(runner) -> bool:
    """Whether a training has stopped because of a signal."""
    return any(isinstance(hook, PreemptionHook) and hook.stopped for hook in runner.hooks)
