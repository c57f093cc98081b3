"""The training loop: MMEngine's, which goes on at the right sample."""

from __future__ import annotations

import logging
from typing import Any, Callable, Optional, TypeVar

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from cotap_mm import signals
from cotap_mm.distributed.collectives import world_size
from cotap_mm.registry import LOOPS

from .determinism import deterministic_on_cpu
from .log_history import KEPT, bound_history

T = TypeVar('T')


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop over iterations; a resumed run reads only what it has not seen.

    MMEngine's own reads and drops everything that was seen before. The loader's sampler
    must be one that can start anywhere, such as :class:`cotap_mm.datasets.VisitSampler`;
    with another one this loop does as MMEngine's. Of each logged value it remembers the last
    ones, so that a long run does not grow; see :func:`bound_history`.

    Args:
        runner (Runner): As in the parent, like all other arguments.
        log_history (int): Values of each kind that are remembered. Defaults to 1000.

    Attributes:
        samples_seen (int): Samples that all ranks together have been given since the run began.
    """

    def __init__(self, runner, *args: Any, log_history: int = KEPT, **kwargs: Any) -> None:
        super().__init__(runner, *args, **kwargs)
        self.log_history = log_history
        self.samples_seen = 0

    @property
    def batch_of_all_ranks(self) -> int:
        """Samples of one iteration."""
        return self.dataloader.batch_size * world_size()

    def start_from(self, samples_seen: int) -> None:
        """Let the loader go on behind that many samples."""
        self.samples_seen = samples_seen
        if hasattr(self.dataloader.sampler, 'start'):
            self.dataloader.sampler.start = samples_seen
            # The one there is has begun with the first sample.
            self.dataloader_iterator = type(self.dataloader_iterator)(self.dataloader)
            print_log(f'the loader goes on behind {samples_seen} samples', logger='current')
            return
        batches = samples_seen // self.batch_of_all_ranks
        print_log(
            f'{type(self.dataloader.sampler).__name__} cannot start in the middle: reading '
            f'{batches} batches that were seen before',
            logger='current',
            level=logging.WARNING,
        )
        for _ in range(batches):
            next(self.dataloader_iterator)

    def run(self) -> nn.Module:
        """Train; returns the model."""
        with deterministic_on_cpu(self.runner.model):
            return self._run()

    def _run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter > 0 and not self.samples_seen:  # the checkpoint is another loop's
            self.start_from(self._iter * self.batch_of_all_ranks)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            batch = self._between_steps(lambda: next(self.dataloader_iterator))
            if self.stop_training:
                break
            self.run_iter(batch)
            self._decide_current_val_interval()
            if (
                self.runner.val_loop is not None
                and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
            ):
                self._between_steps(self.runner.val_loop.run)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _between_steps(self, act: Callable[[], T]) -> Optional[T]:
        """What ``act()`` returns; where a signal interrupts it, save, stop, and return None."""
        # Gradients that are being accumulated cannot be saved, so they are completed first.
        alone = world_size() == 1 and self.runner.optim_wrapper.should_update()
        try:
            with signals.interruptible(alone):
                return act()
        except signals.Stopped:
            stoppers = [hook for hook in self.runner.hooks if hasattr(hook, 'stop_between_steps')]
            if not stoppers:
                raise
            stoppers[0].stop_between_steps(self.runner)
            return None

    def run_iter(self, data_batch: Any) -> None:
        """One iteration, counted before hooks save the count."""
        bound_history(self.runner, self.log_history)
        self.samples_seen += self.batch_of_all_ranks
        super().run_iter(data_batch)
