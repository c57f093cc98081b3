"""Save and stop when the machine is about to be taken away."""
import logging
import os
import signal
import threading
import time
from typing import Any, Dict, Optional, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm.datasets.workers import keep_workers
from cotap_mm.ops import all_reduce_max
from cotap_mm.registry import HOOKS

from .safe_checkpoint_hook import SafeCheckpointHook

#: Exit status of a training that was asked to stop and can be resumed (EX_TEMPFAIL of sysexits.h).
EXIT_STATUS = 75

#: Seconds within which the same signal is no second one: a scheduler signals all processes of a
#: job, and ``torchrun`` hands what it gets on to those that have it already.
_SAME_SIGNAL = 3.0


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a signal, finish the step, save, and end; ``tools/train.py`` exits with 75.

    One rank that gets the signal is enough. A second signal, another one or the same after
    3 seconds, ends the process at once;
    files that are being written then are left behind under another name, and the last
    checkpoint is untouched.

    Args:
        signals (Sequence[str]): Defaults to SIGTERM (schedulers, ``torchrun``) and
            SIGUSR1 (Slurm's ``--signal=USR1@120``).

    Raises:
        ValueError: If there is no such signal.
    """

    priority = 'LOWEST'  # behind the checkpoint hook

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        for name in signals:
            if not hasattr(signal, name):
                raise ValueError(f'signals must be names such as SIGTERM, got {name!r}')
        self.signals = [getattr(signal, name) for name in signals]
        self.received: Optional[str] = None
        self._received_at = 0.0
        self.stopped = False
        self._handlers_before: Dict[int, Any] = {}

    def before_train(self, runner) -> None:
        """Listen."""
        keep_workers(True)
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may
        for number in self.signals:
            self._handlers_before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received, self._received_at = name, time.monotonic()
        elif name != self.received or time.monotonic() - self._received_at > _SAME_SIGNAL:
            os._exit(128 + number)

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Save and stop, if any rank has been asked to."""
        asked = torch.tensor(int(self.received is not None))
        if not all_reduce_max(asked) or not runner.optim_wrapper.should_update():
            return
        print_log(f'{self.received or "a signal on another rank"}: saving iteration '
                  f'{runner.iter + 1} and stopping; --resume goes on', logger='current',
                  level=logging.WARNING)
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                hook.save_now(runner)
        self.stopped = True
        runner.train_loop.stop_training = True

    def after_train(self, runner) -> None:
        """Listen no longer."""
        keep_workers(False)
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()


def was_preempted(runner) -> bool:
    """Whether a training has ended because of a signal."""
    return any(isinstance(hook, PreemptionHook) and hook.stopped for hook in runner.hooks)
