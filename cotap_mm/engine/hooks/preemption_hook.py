"""Save and stop when the scheduler is about to preempt the machine."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Optional

from mmengine.device import is_cuda_available
from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm import signals as stop_signals
from cotap_mm.datasets.workers import keep_workers
from cotap_mm.distributed.collectives import HostAgreement, world_size
from cotap_mm.distributed.rendezvous import set_gloo_interface
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, number, or_one_of
from cotap_mm.signals import EXIT_STATUS

from .atomic_checkpoint_hook import AtomicCheckpointHook, last_checkpoint

__all__ = ['EXIT_STATUS', 'PreemptionHook', 'stopped_by', 'was_preempted']


_UNCATCHABLE = ('SIGKILL', 'SIGSTOP')
_MOST_STEPS = 100  # between two agreements, if steps are very short


@HOOKS.register_module()
class PreemptionHook(Hook):
    """After a signal, finish the step, save, and stop; ``cotap train`` exits with 75.

    It is enough that one rank receives the signal. A training that waits for its next batch is
    saved and stopped there. ``cotap train`` handles Ctrl-C in the same way, with status 130. A
    second signal exits the process immediately; repeats of the same signal within 3 seconds are
    ignored (0.5 seconds for Ctrl-C in a single process). Files that are being written then remain
    under their temporary names, and the last checkpoint is not affected. For signals before
    training and between steps see :mod:`cotap_mm.signals`.

    Several ranks agree on whether to stop about every ``agree_seconds``, and act on it one step
    later: the exchange runs meanwhile, between the hosts, so that no GPU waits for it.

    Args:
        signals (Sequence[str]): Names of signals. Defaults to SIGTERM (schedulers,
            ``torchrun``) and SIGUSR1 (Slurm's ``--signal=USR1@120``).
        agree_seconds (float, optional): Seconds between two agreements of several ranks; 0 for
            an agreement in each step, which all ranks wait for. Defaults to None: 1 on GPUs, 0 on
            CPUs.

    Raises:
        ValueError: If a signal does not exist or cannot be handled, or ``agree_seconds`` is
            negative.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    @check_arguments(agree_seconds=or_one_of(number(0), None))
    def __init__(
        self,
        signals: Sequence[str] = ('SIGTERM', 'SIGUSR1'),
        agree_seconds: Optional[float] = None,
    ) -> None:
        for name in signals:
            if name not in signal.Signals.__members__ or name in _UNCATCHABLE:
                raise ValueError(
                    'signals must be names of signals that a process can handle, such as SIGTERM, '
                    f'got {name!r}'
                )
        if agree_seconds is None:
            agree_seconds = 1.0 if is_cuda_available() else 0.0
        self.names = tuple(signals)
        self.agree_seconds = agree_seconds
        self.stopped_by = ''  # name of the signal
        self._start = 0  # iterations completed before this process
        self._contexts = ExitStack()
        self._agreement: Optional[HostAgreement] = None
        self._steps_left = 0  # until the next agreement starts
        self._wishes: tuple[str, bool] = ('', False)  # agreed, but not carried out yet
        self._last_step = 0.0  # time of its end

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
        if world_size() > 1:
            self._hosts()  # creates a process group
        self._start = runner.iter
        self._contexts.enter_context(stop_signals.listening(self.names))
        self._contexts.enter_context(stop_signals.deferred())
        stop_signals.set_advice(lambda: last_checkpoint(runner))

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Save and stop if any rank has received a signal; save if it is time to.

        The ranks agree on both at once, and carry it out after the same step.
        """
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        self._agree(any(hook.is_overdue() for hook in savers))
        if not runner.optim_wrapper.should_update():
            return
        (name, is_overdue), self._wishes = self._wishes, ('', False)
        if name:
            self._stop(runner, runner.iter + 1, name)
        elif is_overdue:
            for hook in savers:
                hook.save_now(runner, runner.iter + 1)

    def agreed_signal(self) -> str:
        """Name of the signal that any rank has received, '' if none; every rank must call this."""
        if world_size() == 1:
            return self.received
        agreement = self._hosts()
        agreement.start(self._own(False))
        return self._named(agreement.finish())

    def _agree(self, is_overdue: bool) -> None:
        """Update what all ranks want, at once or by an exchange that the next step finishes."""
        if world_size() == 1:
            self._wishes = self.received, is_overdue
            return
        now = time.monotonic()
        seconds, self._last_step = now - self._last_step, now
        agreement = self._hosts()
        if agreement.is_running:
            self._finish(agreement)
        elif self._steps_left > 0:
            self._steps_left -= 1
        else:
            agreement.start([*self._own(is_overdue), seconds])
            if not self.agree_seconds:
                self._finish(agreement)

    def _finish(self, agreement: HostAgreement) -> None:
        """Note what the ranks want, and after how many steps, the same for all, they ask again."""
        *asked, is_overdue, seconds = agreement.finish()
        self._wishes = self._named(asked) or self._wishes[0], bool(is_overdue) or self._wishes[1]
        self._steps_left = min(int(self.agree_seconds / max(seconds, 1e-9)), _MOST_STEPS)

    def _hosts(self) -> HostAgreement:
        if self._agreement is None:
            set_gloo_interface()
            self._agreement = HostAgreement()
        return self._agreement

    def _own(self, is_overdue: bool) -> list[float]:
        """Whether this rank has received a signal and wants to save, as numbers."""
        name = self.received  # read once: a signal may come at any time
        # All ranks exit with one status; a scheduler's signal is more important than Ctrl-C.
        kind = 0
        if name:
            kind = 1 if stop_signals.status_of(name) == stop_signals.INTERRUPTED else 2
        return [kind, float(is_overdue)]

    def _named(self, asked: Sequence[float]) -> str:
        """Name of the signal that the ranks have agreed on."""
        kind, name = int(asked[0]), self.received  # the latter may have come since
        if kind and name and kind == self._own(False)[0]:
            return name
        return f'{("SIGINT", "a signal")[kind - 1]} on another rank' if kind else ''

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
                f'{name}: saving iteration {done} and stopping',
                logger='current',
                level=logging.WARNING,
            )
            for hook in runner.hooks:
                if isinstance(hook, AtomicCheckpointHook):
                    hook.save_now(runner, done)
            self.stopped_by = name
            runner.train_loop.stop_training = True

    def after_train(self, runner) -> None:
        """Finish the last exchange, and restore the previous signal handlers."""
        if self._agreement is not None and self._agreement.is_running:
            self._agreement.finish()
        self.close()

    def close(self) -> None:
        """Restore the previous signal handlers, also after an error."""
        keep_workers(False)
        self._contexts.close()
        if self._agreement is not None:
            self._agreement.close()
            self._agreement = None


def stopped_by(runner) -> str:
    """Name of the signal that has stopped a training; '' if none has."""
    names = [hook.stopped_by for hook in runner.hooks if isinstance(hook, PreemptionHook)]
    return next(filter(None, names), '')


def was_preempted(runner) -> bool:
    """Whether a training has stopped because of a signal."""
    return bool(stopped_by(runner))
