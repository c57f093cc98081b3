"""Stop trainings that run in MMEngine's own loops, such as downstream ones, after a signal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Optional

import torch
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import IterBasedTrainLoop

from cotap_mm import signals
from cotap_mm.distributed.collectives import all_reduce_max, world_size
from cotap_mm.registry import HOOKS

from .preemption_hook import PreemptionHook


@HOOKS.register_module()
class LoopPreemptionHook(PreemptionHook):
    """:class:`PreemptionHook` for MMEngine's own training loops.

    * A loop over iterations finishes the step, saves, and ends.
    * A loop over epochs finishes the step and ends: MMEngine cannot resume in the middle of an
      epoch, so the run continues from the last checkpoint. A signal in the last step of an epoch
      is obeyed after that epoch has been saved.
    * A wait for data and a validation are interrupted. A loop over iterations in a single process
      is saved then, unless an EMAHook has swapped the weights for the validation. On several
      ranks they may take 10 more seconds; see :func:`cotap_mm.signals.interruptible`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._between = ExitStack()  # open where a signal may interrupt
        self._is_validating = False
        self.is_between_steps = False

    def before_train(self, runner) -> None:
        """As the parent; until the first step has begun, a signal is obeyed at once."""
        super().before_train(runner)
        self._allow(runner)

    def before_train_epoch(self, runner) -> None:
        """A wait for the first batch may be interrupted."""
        self._allow(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """A step is not interrupted."""
        self._forbid()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        """Stop if any rank has been asked to; by iterations, save before."""
        if _is_by_iterations(runner):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            is_last = runner.iter + 1 >= runner.max_iters
        else:
            is_last = _is_last(batch_idx, runner.train_dataloader)
        if is_last or self.stopped:  # what follows saves
            return
        if not _is_by_iterations(runner):
            self._raise_if_asked()
        self._allow(runner)

    def after_train_epoch(self, runner) -> None:
        """After the checkpoint of the epoch."""
        if not _is_by_iterations(runner):
            self._raise_if_asked()

    def before_val_epoch(self, runner) -> None:
        """A validation may be interrupted; a run that has been saved and stops has none.

        Raises:
            Stopped: After that, on all ranks.
        """
        if self.stopped:
            raise signals.Stopped(self.received or 'a signal on another rank')
        self._is_validating = True
        self._allow(runner)

    def after_val_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Optional[Any] = None
    ) -> None:
        """The best checkpoint is saved after the last batch, and that is not interrupted."""
        if _is_last(batch_idx, runner.val_dataloader):
            self._forbid()

    def after_val_epoch(self, runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Between two steps again."""
        self._is_validating = False
        done, wanted = (
            (runner.iter, runner.max_iters)
            if _is_by_iterations(runner)
            else (runner.epoch, runner.max_epochs)
        )
        if done < wanted:  # else the last checkpoint may still have to be saved
            self._allow(runner)

    def after_train(self, runner) -> None:
        """As the parent."""
        self._forbid()
        super().after_train(runner)

    def stop_between_steps(self, runner) -> None:
        """As the parent where the training can be saved now.

        Raises:
            Stopped: Where it cannot.
        """
        self._forbid()
        swaps = self._is_validating and any(
            isinstance(hook, MMENGINE_HOOKS.get('EMAHook')) for hook in runner.hooks
        )
        if swaps or not _is_by_iterations(runner):
            raise signals.Stopped(self.received)
        super().stop_between_steps(runner)

    def close(self) -> None:
        """As the parent."""
        self._forbid()
        super().close()

    def _forbid(self) -> None:
        self.is_between_steps = False
        self._between.close()

    def _allow(self, runner) -> None:
        self._forbid()
        if not self.stopped:
            self.is_between_steps = True
            # Gradients that are being accumulated cannot be saved, so they are completed first.
            alone = world_size() == 1 and runner.optim_wrapper.should_update()
            self._between.enter_context(signals.interruptible(alone))

    def _raise_if_asked(self) -> None:
        if all_reduce_max(torch.tensor(int(bool(self.received)))):
            raise signals.Stopped(self.received or 'a signal on another rank')


def _is_by_iterations(runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def _is_last(batch_idx: int, loader: Any) -> bool:
    """Whether a loader, which need not know its length, has given its last batch."""
    try:
        return batch_idx + 1 >= len(loader)
    except TypeError:
        return False
