"""Fit open-ended schedules to the length of the training."""

from __future__ import annotations

from itertools import chain

from mmengine.hooks import Hook
from mmengine.optim.scheduler.param_scheduler import INF

from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class ScheduleLengthHook(Hook):
    """Make cosine schedules without a length end at the last iteration.

    A config then contains the number of iterations only once, as ``train_cfg.max_iters``, and
    it can be changed from the command line.
    """

    def before_train(self, runner) -> None:
        """Set ``T_max`` of schedules without an end."""
        schedulers = runner.param_schedulers or []
        if isinstance(schedulers, dict):
            schedulers = chain.from_iterable(schedulers.values())
        for scheduler in schedulers:
            if hasattr(scheduler, 'T_max') and scheduler.end >= INF:
                scheduler.T_max = runner.max_iters - scheduler.begin
