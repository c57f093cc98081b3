"""Write checkpoints atomically, and keep training when the disk is full."""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner

from cotap_mm import signals
from cotap_mm.datasets.samplers import RANDPERM
from cotap_mm.deprecation import register_renamed
from cotap_mm.distributed.collectives import all_reduce_max, broadcast
from cotap_mm.engine.resume import state as run_state
from cotap_mm.engine.resume.checkpoints import atomic_checkpoint, remove_checkpoint
from cotap_mm.engine.resume.fit import check_shapes, check_start
from cotap_mm.engine.resume.train_loop import ResumableTrainLoop
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_write, name_bytes
from cotap_mm.files.temporary import remove_leftovers
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, number, or_one_of, whole

from .best_checkpoints import BestCheckpointHook, describe_error, error_on_all_ranks
from .non_finite_hook import settle_steps

#: Key in MMEngine's message hub: last checkpoint whose own step was not skipped.
_LAST_GOOD = 'last_good_ckpt'
_POLL = 0.5  # seconds
_WAIT, _TRY, _GIVE_UP, _STOP = range(4)  # while the disk is full; the maximum of all ranks is used


class LastCheckpointLost(UserError, OSError):
    """The last checkpoint of a training could not be saved."""


@HOOKS.register_module()
class AtomicCheckpointHook(BestCheckpointHook):
    """Save checkpoints that survive crashes of the process and failures of the disk.

    * A checkpoint is written under a temporary name, flushed to the disk, and renamed. Its
      checksum is in ``iter_N.pth.json``.
    * Older checkpoints are deleted only after the new one is complete.
    * While steps are skipped because their gradients are not finite, the last checkpoint
      before them is kept, too.
    * A training by iterations also saves if it has not done so for ``interval_minutes``, so that
      a slow or short one loses little. The last iteration is always saved (``save_last``).
    * If a checkpoint cannot be written, e.g. because the disk is full, training continues and
      retries; at the end of the training it waits for free space. Best and published
      checkpoints (``save_best``, ``published_keys``) are retried, too, but not waited for.
    * A checkpoint contains the queues and random states of all ranks and the position in the
      data, so that a resumed run continues exactly.

    On storage other than a local disk, files are written by MMEngine's hook.

    Args:
        *args: Positional arguments of MMEngine's CheckpointHook.
        retry_interval (int): Iterations after which a failed save is retried. Defaults to 100.
        interval_minutes (float, optional): Minutes after which a training by iterations saves
            although ``interval`` has not passed, by the clock of rank 0; None for never. The
            PreemptionHook does it, because it lets all ranks agree. Defaults to 30.
        final_wait (float): Seconds for which the end of a training retries the last save before
            it gives up. Defaults to 3600.
        **options: Keyword arguments of MMEngine's CheckpointHook.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    @check_arguments(
        interval=or_one_of(whole(1), -1),
        max_keep_ckpts=or_one_of(whole(1), -1),
        retry_interval=whole(1),
        interval_minutes=or_one_of(number(0, above=True), None),
        final_wait=or_one_of(number(0), math.inf),
    )
    def __init__(
        self,
        *args: Any,
        retry_interval: int = 100,
        interval_minutes: Optional[float] = 30,
        final_wait: float = 3600,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        unknown = set(self.args) - set(inspect.signature(Runner.save_checkpoint).parameters)
        if unknown:
            raise ValueError(
                f'default_hooks.checkpoint: unknown option {", ".join(sorted(unknown))}'
            )
        self.retry_interval = retry_interval
        self.interval_minutes = interval_minutes
        self._last_try = 0.0  # seconds of time.monotonic
        self.final_wait = final_wait
        self._next_try = 0  # iteration; 0 if the last save succeeded
        self._missing: tuple[int, dict] = (0, {})
        self._saved = 0  # iteration; 0 if this process has not saved yet
        self._run_state: Optional[dict] = None
        self._resumed: Optional[dict] = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the state that MMEngine does not restore; refuse weights of another network."""
        if runner._resume:
            check_shapes(runner.model, checkpoint)
        else:
            check_start(runner.model, checkpoint, runner._load_from)
        # A copy, because FlexibleRunner removes parts.
        self._resumed = dict(checkpoint) if runner._resume and run_state.KEY in checkpoint else None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the state that MMEngine does not save."""
        if self._run_state is not None:
            checkpoint[run_state.KEY] = dict(
                self._run_state, neighbors=run_state.neighbor_files(runner.cfg)
            )

    def before_train(self, runner) -> None:
        """Restore the state that MMEngine does not, and delete temporary files of killed runs."""
        kept = list(runner.message_hub.runtime_info.get('keep_ckpt_ids', []))
        if kept and self.max_keep_ckpts > 0:  # otherwise MMEngine would delete the others
            runner.message_hub.update_info('keep_ckpt_ids', kept[-self.max_keep_ckpts :])
        super().before_train(runner)
        self._last_try = time.monotonic()
        if self._is_local():
            self.keep_ckpt_ids = deque(kept)
        if self._resumed is not None:
            if isinstance(runner.train_loop, ResumableTrainLoop):
                # Before the random states are restored: starting a loader draws numbers.
                state = self._resumed[run_state.KEY]
                # Earlier versions had one kind of order and did not save it.
                order = state.get('order', RANDPERM)
                runner.train_loop.start_from(state['samples_seen'], order)
            run_state.restore_run_state(runner.model, self._resumed, runner.seed)
            self._resumed = None
        removed = self._remove_leftovers(runner)
        if removed:
            print_log(
                f'removed temporary files of a killed run: {", ".join(removed)}', logger='current'
            )

    def _remove_leftovers(self, runner) -> list[str]:
        """Delete temporary files of dead processes and of this one; return their names."""
        if not self._is_local() or not is_main_process():
            return []
        return [
            name
            for folder in sorted({str(self.out_dir), str(runner.work_dir)})
            for name in remove_leftovers(folder)
        ]

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save at the interval, or retry a failed save."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        # A run by epochs retries at the end of the next epoch.
        if not self.by_epoch and 0 < self._next_try <= runner.iter + 1:
            self._save_checkpoint(runner)

    def after_train(self, runner) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            LastCheckpointLost: If it cannot be written for ``final_wait`` seconds.
            Stopped: If a signal asks to stop before it is written.
        """
        self._wait_for_space(runner)
        super().after_train(runner)
        if self._is_local() and self._saved and self._has_vanished():
            print_log(
                f'{self.last_ckpt} was deleted by another process; saving it again',
                logger='current',
                level=logging.WARNING,
            )
            done = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(
                runner, done, dict(epoch=runner.epoch, iter=runner.iter)
            )
            self._wait_for_space(runner)
        with suppress(OSError):  # temporary files that a failing disk did not let us delete
            self._remove_leftovers(runner)

    def _has_vanished(self) -> bool:
        """Whether the last checkpoint no longer exists on rank 0, e.g. in a deleted folder."""
        is_missing = is_main_process() and not os.path.exists(str(self.last_ckpt))
        return bool(broadcast(torch.tensor(float(is_missing))))

    def save_now(self, runner, done: int) -> None:
        """Save a training that stops, unless it is saved already.

        Args:
            runner (Runner): After a step, or between two steps.
            done (int): Completed iterations.
        """
        if self._saved != done:
            self._save_checkpoint_with_step(runner, done, dict(epoch=runner.epoch, iter=done))

    def is_overdue(self) -> bool:
        """Whether rank 0 finds that the last checkpoint is older than ``interval_minutes``."""
        if self.interval_minutes is None or self.by_epoch or not is_main_process():
            return False
        return time.monotonic() - self._last_try > 60 * self.interval_minutes

    def _save_checkpoint(self, runner) -> None:
        if not self.by_epoch and not runner.optim_wrapper.should_update():
            # Partially accumulated gradients cannot be saved.
            self._next_try = runner.iter + 2
            return
        super()._save_checkpoint(runner)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        self._last_try = time.monotonic()
        settle_steps(runner)
        self._run_state = run_state.gather_run_state(
            runner.model,
            getattr(runner.train_loop, 'samples_seen', 0),
            getattr(runner.train_loop, 'order', None),
        )
        if not self._is_local():
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        info = runner.message_hub.runtime_info
        before = dict(
            keep_ckpt_ids=self._kept(), last_ckpt=self.last_ckpt, last_good=info.get(_LAST_GOOD)
        )
        # While steps are skipped, the checkpoint before them is kept in any case.
        last_good = before['last_good'] if _is_skipped(runner) else step
        kept = [other for other in self._kept() if other != step] + [step]
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            outdated = [other for other in kept[: -self.max_keep_ckpts] if other != last_good]
            kept = [other for other in kept if other not in outdated]
        self._note(runner, kept, str(path), last_good)
        error = self._write(runner, path, meta)
        if error is not None:
            self._note(runner, **before)
            self._missing = step, meta
            self._next_try = runner.iter + 1 + self.retry_interval
            print_log(
                f'{path} cannot be written: {error}. Training continues and retries in '
                f'{self.retry_interval} iterations; free disk space. Previous checkpoints are '
                'kept',
                logger='current',
                level=logging.ERROR,
            )
            return
        self._next_try, self._saved = 0, step
        if is_main_process():
            for other in outdated:
                _remove(path.with_name(self.filename_tmpl.format(other)))

    def _kept(self) -> list[int]:
        return list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []

    def _note(
        self, runner, keep_ckpt_ids: list[int], last_ckpt: Optional[str], last_good: Optional[int]
    ) -> None:
        """Update the message hub, which is saved with the checkpoint, and MMEngine's attributes."""
        if last_good is not None:
            runner.message_hub.update_info(_LAST_GOOD, last_good)
        self.last_ckpt = last_ckpt
        if last_ckpt is not None:
            runner.message_hub.update_info('last_ckpt', last_ckpt)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(keep_ckpt_ids)
            runner.message_hub.update_info('keep_ckpt_ids', list(keep_ckpt_ids))

    def _write(self, runner, path: Path, meta: dict) -> Optional[str]:
        """Write a checkpoint; return the error, the same on all ranks, or None."""
        options = dict(
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=dict(meta),
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        # With FSDP all ranks gather the weights, so they must agree to start.
        files, partial = ExitStack(), path
        problem = ''
        if is_main_process():
            try:
                partial = files.enter_context(atomic_checkpoint(path))
            except OSError as error:
                problem = describe_error(error)
        problem = error_on_all_ranks(problem)
        if problem:
            return problem
        try:
            with files:
                runner.save_checkpoint(str(partial.parent), partial.name, **options)
            if is_main_process():
                with atomic_write(Path(runner.work_dir) / 'last_checkpoint') as partial:
                    partial.write_bytes(name_bytes(path))
        except OSError as error:
            problem = describe_error(error)
        return error_on_all_ranks(problem) or None

    def _wait_for_space(self, runner) -> None:
        """Retry the last save until it succeeds, the time is over, or a signal asks to stop."""
        start, pause, next_try = time.monotonic(), 1.0, 1.0
        done = runner.epoch if self.by_epoch else runner.iter
        if self._next_try and self._missing[0] != done:  # save the current state instead
            self._missing = done, dict(epoch=runner.epoch, iter=runner.iter)
        while self._next_try:
            waited, asked = time.monotonic() - start, signals.received()
            step = (
                _STOP
                if asked
                else _GIVE_UP
                if waited > self.final_wait
                else _TRY
                if waited >= next_try
                else _WAIT
            )
            # Saving is a collective, so all ranks take the same step.
            step = int(all_reduce_max(torch.tensor(float(step))))
            failed = f'iteration {self._missing[0]} could not be written to {self.out_dir}'
            if step == _STOP:
                raise signals.Stopped(
                    asked or 'a signal on another rank',
                    f'{failed}; free disk space. {last_checkpoint(runner)}',
                )
            if step == _GIVE_UP:
                raise LastCheckpointLost(
                    f'{failed} for {self.final_wait:.0f} s; free disk space and use --resume. '
                    f'{last_checkpoint(runner)}'
                )
            if step == _TRY:
                pause = min(2 * pause, 60.0)
                next_try = waited + pause
                self._save_checkpoint_with_step(runner, *self._missing)
            else:
                time.sleep(_POLL)


def last_checkpoint(runner) -> str:
    """Checkpoint from which a stopped training can resume, as a sentence without its period.

    It ends with the command to resume if the command line has set ``runner.resume_command``.
    """
    path = str(runner.message_hub.runtime_info.get('last_ckpt') or '')
    if path and ('://' in path or os.path.exists(path)):
        command = getattr(runner, 'resume_command', '')
        return (
            f'The last checkpoint is {path}, and --resume continues from it'
            f'{": " if command else ""}{command}'
        )
    return 'No checkpoint has been saved yet; start again with the same command'


def _remove(path: Path) -> None:
    """Delete an outdated checkpoint; if that fails, only warn, since it just uses disk space."""
    try:
        remove_checkpoint(path)
    except OSError as error:
        print_log(
            f'{path} is outdated and cannot be deleted ({error}); delete it manually',
            logger='current',
            level=logging.WARNING,
        )


def _is_skipped(runner) -> bool:
    """Whether the optimizer has skipped this step, see :class:`MixedPrecisionOptimWrapper`."""
    return bool(getattr(runner.optim_wrapper, 'step_skipped', False))


register_renamed(HOOKS, 'SafeCheckpointHook', AtomicCheckpointHook)
