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

__all__ = ['EXIT_STATUS', 'PreemptionHook', 'stopped_by', 'was_preempted']


@HOOKS.register_module()
class PreemptionHook(Hook):
    """After a signal, finish the step, save, and stop; ``cotap train`` exits with 75.

    It is enough that one rank receives the signal. A training that waits for its next batch is
    saved and stopped there. ``cotap train`` handles Ctrl-C in the same way, with status 130. A
    second signal exits the process immediately; repeats of the same signal within 3 seconds are
    ignored (0.5 seconds for Ctrl-C in a single process). Files that are being written then remain
    under their temporary names, and the last checkpoint is not affected. For signals before
    training and between steps see :mod:`cotap_mm.signals`.

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
        self.stopped_by = ''  # name of the signal
        self._start = 0  # iterations completed before this process
        self._contexts = ExitStack()

    @property
    def signals(self) -> list:
        """Numbers of the signals that stop the training."""
        return [getattr(signal, name) for name in self.names]

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped the training."""
        return bool(self.stopped_by)

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
        """Save and stop if any rank has received a signal; save if it is time to.

        The ranks agree on both at once, since each agreement costs a synchronization.
        """
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        name, is_overdue = self._agree(any(hook.is_overdue() for hook in savers))
        if not runner.optim_wrapper.should_update():
            return
        if name:
            self._stop(runner, runner.iter + 1, name)
        elif is_overdue:
            for hook in savers:
                hook.save_now(runner, runner.iter + 1)

    def agreed_signal(self) -> str:
        """Name of the signal that any rank has received, '' if none; every rank must call this."""
        return self._agree(False)[0]

    def _agree(self, is_overdue: bool) -> tuple[str, bool]:
        """Signal that any rank has received, and whether any rank wants to save."""
        name = self.received  # read once: a signal may come at any time
        # All ranks exit with one status; a scheduler's signal is more important than Ctrl-C.
        own = 0
        if name:
            own = 1 if stop_signals.status_of(name) == stop_signals.INTERRUPTED else 2
        kind, wanted = all_reduce_max(torch.tensor([own, int(is_overdue)])).tolist()
        if kind != own:
            name = f'{("", "SIGINT", "a signal")[kind]} on another rank'
        return name, bool(wanted)

    def stop_between_steps(self, runner) -> None:
        """Save and stop between two steps, e.g. while waiting for a batch.

        Raises:
            Stopped: Before the first step, when there is nothing to save.
        """
        if runner.iter == self._start:
            raise stop_signals.Stopped(self.received)
        self._stop(runner, runner.iter, self.received)

    def _stop(self, runner, done: int, name: str) -> None:
        with stop_signals.deferred():
            print_log(
                f'{name}: saving iteration {done} and stopping; resume with --resume',
                logger='current',
                level=logging.WARNING,
            )
            for hook in runner.hooks:
                if isinstance(hook, AtomicCheckpointHook):
                    hook.save_now(runner, done)
            self.stopped_by = name
            runner.train_loop.stop_training = True

    def after_train(self, runner) -> None:
        """Restore the previous signal handlers."""
        self.close()

    def close(self) -> None:
        """Restore the previous signal handlers, also after an error."""
        keep_workers(False)
        self._contexts.close()


def stopped_by(runner) -> str:
    """Name of the signal that has stopped a training; '' if none has."""
    names = [hook.stopped_by for hook in runner.hooks if isinstance(hook, PreemptionHook)]
    return next(filter(None, names), '')


def was_preempted(runner) -> bool:
    """Whether a training has stopped because of a signal."""
    return bool(stopped_by(runner))
