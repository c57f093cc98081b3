"""Stop trainings in MMEngine's own loops, such as downstream trainings, after a signal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Optional

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import IterBasedTrainLoop

from cotap_mm import signals
from cotap_mm.distributed.collectives import world_size
from cotap_mm.registry import HOOKS

from .preemption_hook import PreemptionHook


@HOOKS.register_module()
class LoopPreemptionHook(PreemptionHook):
    """:class:`PreemptionHook` for MMEngine's own training loops.

    * A loop over iterations finishes the step, saves, and stops.
    * A loop over epochs finishes the step and stops: MMEngine cannot resume in the middle of an
      epoch, so the run resumes from the last checkpoint. After a signal in the last step of an
      epoch, that epoch is saved first.
    * Waiting for data and validation are interrupted. A loop over iterations in a single process
      is saved then, unless an EMAHook has swapped the weights for the validation. With several
      ranks they may take 10 more seconds, see :func:`cotap_mm.signals.interruptible`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._between = ExitStack()  # not empty while a signal may interrupt
        self._is_validating = False
        self.is_between_steps = False

    def before_train(self, runner) -> None:
        """Install signal handlers; a signal before the first step stops immediately."""
        super().before_train(runner)
        self._allow(runner)

    def before_train_epoch(self, runner) -> None:
        """Allow interruption while waiting for the first batch."""
        self._allow(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Forbid interruption during a step."""
        self._forbid()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Stop if any rank has received a signal; a loop over iterations saves first."""
        if _is_by_iterations(runner):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            is_last = runner.iter + 1 >= runner.max_iters
        else:
            is_last = _is_last(batch_idx, runner.train_dataloader)
        if is_last or self.stopped:  # a checkpoint is saved next
            return
        if not _is_by_iterations(runner):
            self._raise_if_asked()
        self._allow(runner)

    def after_train_epoch(self, runner) -> None:
        """Stop after the checkpoint of the epoch if any rank has received a signal."""
        if not _is_by_iterations(runner):
            self._raise_if_asked()

    def before_val_epoch(self, runner) -> None:
        """Allow interruption of the validation; skip it in a run that is saved and stops.

        Raises:
            Stopped: In a run that is saved and stops, on all ranks.
        """
        if self.stopped:
            raise signals.Stopped(self.stopped_by)
        self._is_validating = True
        self._allow(runner)

    def after_val_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Any] = None
    ) -> None:
        """Forbid interruption after the last batch, while the best checkpoint is saved."""
        if _is_last(batch_idx, runner.val_dataloader):
            self._forbid()

    def after_val_epoch(self, runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Allow interruption again, unless the training is complete."""
        self._is_validating = False
        done, wanted = (
            (runner.iter, runner.max_iters)
            if _is_by_iterations(runner)
            else (runner.epoch, runner.max_epochs)
        )
        if done < wanted:  # otherwise the last checkpoint may still have to be saved
            self._allow(runner)

    def after_train(self, runner) -> None:
        """Restore the previous signal handlers."""
        self._forbid()
        super().after_train(runner)

    def stop_between_steps(self, runner) -> None:
        """Save and stop between two steps, if the training can be saved now.

        Raises:
            Stopped: If it cannot be saved now.
        """
        self._forbid()
        swaps = self._is_validating and any(
            isinstance(hook, MMENGINE_HOOKS.get('EMAHook')) for hook in runner.hooks
        )
        if swaps or not _is_by_iterations(runner):
            raise signals.Stopped(self.received)
        super().stop_between_steps(runner)

    def close(self) -> None:
        """Restore the previous signal handlers, also after an error."""
        self._forbid()
        super().close()

    def _forbid(self) -> None:
        self.is_between_steps = False
        self._between.close()

    def _allow(self, runner) -> None:
        self._forbid()
        if not self.stopped:
            self.is_between_steps = True
            # Partially accumulated gradients cannot be saved, so they are completed first.
            alone = world_size() == 1 and runner.optim_wrapper.should_update()
            self._between.enter_context(signals.interruptible(alone))

    def _raise_if_asked(self) -> None:
        name = self.agreed_signal()
        if name:
            raise signals.Stopped(name)


def _is_by_iterations(runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def _is_last(batch_idx: int, loader: Any) -> bool:
    """Whether a batch is the last one of a loader, which may have no length."""
    try:
        return batch_idx + 1 >= len(loader)
    except TypeError:
        return False
