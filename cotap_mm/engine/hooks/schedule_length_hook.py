"""Schedules that end with the training."""

from __future__ import annotations

from itertools import chain

from mmengine.hooks import Hook
from mmengine.optim.scheduler.param_scheduler import INF

from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class ScheduleLengthHook(Hook):
    """Let cosine schedules without a stated length end at the last iteration.

    So the number of iterations stands once in a config, as
    ``train_cfg.max_iters``, and may be changed from the command line.
    """

    def before_train(self, runner) -> None:
        """Set ``T_max`` and ``end`` where the config left them open."""
        schedulers = runner.param_schedulers or []
        if isinstance(schedulers, dict):
            schedulers = chain.from_iterable(schedulers.values())
        for scheduler in schedulers:
            if hasattr(scheduler, 'T_max') and scheduler.end >= INF:
                scheduler.T_max = runner.max_iters - scheduler.begin
