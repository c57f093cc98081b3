"""MMEngine's iteration loop, resumable mid-epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Callable, Optional, TypeVar

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from cotap_mm import signals
from cotap_mm.distributed.collectives import world_size
from cotap_mm.registry import LOOPS
from cotap_mm.rules import check_arguments, whole

from .determinism import deterministic_on_cpu
from .log_history import KEPT, bound_history

T = TypeVar('T')


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop that resumes at the next sample without reading old ones.

    MMEngine's own loop reads and discards all samples that were seen before. The sampler must
    be able to start at any position, such as :class:`cotap_mm.datasets.VisitSampler`; with
    another sampler this loop does the same as MMEngine's. The history of logged values is
    limited, so that memory and checkpoints do not grow, see :func:`bound_history`.

    Args:
        runner (Runner): Runner; all other arguments are those of the parent, too.
        log_history (int): Number of values to keep of each logged scalar. Defaults to 1000.

    Attributes:
        samples_seen (int): Samples that all ranks together have received since the run started.
    """

    @check_arguments(log_history=whole(1))
    def __init__(self, runner, *args: Any, log_history: int = KEPT, **kwargs: Any) -> None:
        super().__init__(runner, *args, **kwargs)
        self.log_history = log_history
        self.samples_seen = 0
        self._modes: list[tuple[nn.Module, bool]] = []  # after model.train()

    @property
    def batch_of_all_ranks(self) -> int:
        """Number of samples of one iteration on all ranks."""
        return self.dataloader.batch_size * world_size()

    @property
    def order(self) -> Optional[str]:
        """Kind of the order of the samples; None if the sampler does not have several."""
        return getattr(self.dataloader.sampler, 'order', None)

    def start_from(self, samples_seen: int, order: Optional[str] = None) -> None:
        """Fast-forward the data loader.

        Args:
            samples_seen (int): Samples that all ranks together have seen.
            order (str, optional): Kind of their order, see :class:`.VisitSampler`. Defaults to
                None, unknown.
        """
        self.samples_seen = samples_seen
        if order is not None and self.order is not None:
            self.dataloader.sampler.continue_order(order)
        if hasattr(self.dataloader.sampler, 'start'):
            self.dataloader.sampler.start = samples_seen
            # The existing iterator has started at the first sample.
            self.dataloader_iterator = type(self.dataloader_iterator)(self.dataloader)
            print_log(f'data loader resumes at sample {samples_seen}', logger='current')
            return
        batches = samples_seen // self.batch_of_all_ranks
        print_log(
            f'{type(self.dataloader.sampler).__name__} cannot start at a given sample: reading '
            f'and discarding {batches} batches',
            logger='current',
            level=logging.WARNING,
        )
        for _ in range(batches):
            next(self.dataloader_iterator)

    def run(self) -> nn.Module:
        """Train and return the model."""
        with deterministic_on_cpu(self.runner.model):
            return self._run()

    def _run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter > 0 and not self.samples_seen:  # a checkpoint of another loop
            self.start_from(self._iter * self.batch_of_all_ranks)
        wrapper = self.runner.optim_wrapper
        if getattr(wrapper, '_inner_count', self._iter) != self._iter:
            # MMEngine's strategies count from 0 after a run is resumed.
            wrapper.initialize_count_status(self.runner.model, self._iter, self._max_iters)
        while self._iter < self._max_iters and not self.stop_training:
            self._train_mode()
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
        if not self.stop_training:
            self._end_workers()
        return self.runner.model

    def _end_workers(self) -> None:
        """End the workers of the loader, which a notebook or script would keep.

        They would end with the loop, too. But if the garbage collection finds it, their queues are
        closed before they are told to end, and PyTorch waits 5 seconds for each.
        """
        self.dataloader_iterator = self._batches()
        self.dataloader._iterator = None  # of persistent workers

    def _batches(self) -> Iterator[Any]:
        """Yield batches; workers start with the first one."""
        yield from self.dataloader

    def _train_mode(self) -> None:
        """Call ``model.train()``, if anything has changed a mode since the last call.

        Comparing modes takes a fraction of the time of setting them.
        """
        if any(module.training is not mode for module, mode in self._modes) or not self._modes:
            self.runner.model.train()
            self._modes = [(module, module.training) for module in self.runner.model.modules()]

    def _between_steps(self, act: Callable[[], T]) -> Optional[T]:
        """Return ``act()``; if a signal interrupts it, save, stop and return None."""
        # Partially accumulated gradients cannot be saved, so they are completed first.
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
        """Run one iteration; count its samples before hooks save the count."""
        bound_history(self.runner, self.log_history)
        self.samples_seen += self.batch_of_all_ranks
        super().run_iter(data_batch)
