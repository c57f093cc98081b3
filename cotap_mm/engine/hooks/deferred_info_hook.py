"""Log the losses of a step without waiting for the device."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import LoggerHook, RuntimeInfoHook

from cotap_mm.engine.late_values import log_later
from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, which leaves losses on the device until they are logged.

    MMEngine reads each loss in each step. Here they are copied together as soon as anything reads
    their history, such as the logger or a checkpoint, which get the same numbers.
    """

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Log the losses."""
        for name, value in (outputs or {}).items():
            log_later(runner.message_hub, f'train/{name}', value)


def logs_now(runner, batch_idx: int) -> bool:
    """Whether the losses of this iteration are logged, after its step.

    Args:
        runner (Runner): In ``after_train_iter``.
        batch_idx (int): Index of the batch.
    """
    return any(
        hook.every_n_inner_iters(batch_idx, hook.interval)
        or hook.end_of_epoch(runner.train_dataloader, batch_idx)
        for hook in runner.hooks
        if isinstance(hook, LoggerHook)
    )
