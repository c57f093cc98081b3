"""Log and count skipped non-finite steps; abort after too many in a row."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm.distributed.collectives import broadcast, rank, world_size
from cotap_mm.distributed.fsdp import full_state_dict
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.late_values import LateFlag
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, whole

from .deferred_info_hook import logs_now

_ADVICE = (
    'lower optim_wrapper.optimizer.lr, set optim_wrapper.clip_grad=dict(max_norm=3.0), or '
    "train with optim_wrapper.dtype='bfloat16' or 'float32'; inspect the images if the same "
    'ones are reported again'
)

#: Steps of which it may be unknown whether they were skipped. Their batches stay in memory, and
#: the host gets no further ahead of the device.
_MOST_PENDING = 3


class Diverged(UserError, FloatingPointError):
    """Too many steps in a row had losses or gradients that are not finite."""


class _Step(NamedTuple):
    """A step of which it is not known yet whether it was skipped."""

    iteration: int  # counted from 1
    skipped: LateFlag
    data_batch: Any
    losses: dict[str, Any]  # without their graph
    rates: Any


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Report the steps that :class:`MixedPrecisionOptimWrapper` skips.

    Each skipped step is logged with its losses and images, and counted (``skipped_steps``).
    After ``patience`` skipped steps in a row the training stops on all ranks and saves a bundle
    in the work folder: ``non_finite_iter_N.json`` with losses, images and names of non-finite
    weights, and ``non_finite_iter_N_rank_R.pth`` with the batches.

    Whether a step was skipped is read after one of the next three, as soon as the device has
    decided (with several ranks, whose devices differ in speed, after the third), so that neither
    waits for the other; but before a log, a checkpoint and a validation, and at the end of the
    training, at once. So the training stops up to three steps late, for the same step.

    With another optimizer wrapper the first loss that is not finite stops the training.

    Args:
        patience (int): Number of skipped steps in a row after which to stop, >= 1. Defaults to
            20; loss scaling of float16 skips some steps while it searches for its scale.

    Raises:
        ValueError: If ``patience`` is less than 1.
    """

    priority = 'HIGH'  # before the EMA of the teacher

    @check_arguments(patience=whole(1))
    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self.in_a_row = 0
        self.total = 0
        self._pending: deque[_Step] = deque()

    def after_train_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Check whether earlier steps were skipped, and this one if it is logged.

        Raises:
            Diverged: If too many steps in a row were skipped.
        """
        wrapper = runner.optim_wrapper
        if not hasattr(wrapper, 'skip_flag'):
            self._check_losses(runner, outputs)
            return
        while self._pending and self._is_due(self._pending[0].skipped):
            self._settle_one(runner)
        if not wrapper.should_update():  # gradients are being accumulated
            return
        losses, rates = _losses(outputs), wrapper.get_lr()
        self._pending.append(_Step(runner.iter + 1, wrapper.skip_flag, data_batch, losses, rates))
        if logs_now(runner, batch_idx):
            self.settle(runner)

    def settle(self, runner) -> None:
        """Read whether the last steps were skipped, as far as that is not known yet.

        All ranks must call this after the same iteration.

        Raises:
            Diverged: If too many steps in a row were skipped.
        """
        while self._pending:
            self._settle_one(runner)

    def _is_due(self, flag: LateFlag) -> bool:
        """Whether to read the oldest flag, the same on all ranks, which gather what they report."""
        if len(self._pending) >= _MOST_PENDING:
            return True
        return (world_size() == 1 or flag.on_device.device.type == 'cpu') and flag.is_here()

    def _settle_one(self, runner) -> None:
        step = self._pending.popleft()
        if not step.skipped.read():
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        runner.message_hub.update_scalar('train/skipped_steps', self.total)
        ranks = all_gather_object(
            dict(
                losses={name: float(value) for name, value in step.losses.items()},
                images=_images(step.data_batch),
            )
        )
        print_log(
            f'iteration {step.iteration}: gradients are not finite, so the step is skipped '
            f'({self.in_a_row} in a row, {self.total} in total). '
            f'{_describe(ranks)}',
            logger='current',
            level=logging.WARNING,
        )
        if self.in_a_row >= self.patience:
            bundle = self._save_bundle(runner, step, ranks)
            raise Diverged(
                f'iteration {step.iteration}: {self.in_a_row} steps in a row had gradients that '
                f'are not finite. Resume from the last checkpoint, and {_ADVICE}. {bundle}'
            )

    def before_val(self, runner) -> None:
        """Settle, so that a diverged training ends here."""
        self.settle(runner)

    def after_train(self, runner) -> None:
        """Settle the last steps."""
        self.settle(runner)

    @staticmethod
    def _check_losses(runner, outputs: Optional[dict]) -> None:
        bad = [
            f'{name} = {float(value)}'
            for name, value in _losses(outputs).items()
            if not math.isfinite(float(value))
        ]
        if bad:
            raise Diverged(
                f'iteration {runner.iter + 1}: {", ".join(bad)}. Resume from '
                f'the last checkpoint, and {_ADVICE}'
            )

    def before_train(self, runner) -> None:
        """Continue the count of a resumed run; turn off the wrapper's own warning."""
        self._pending.clear()
        counts = runner.message_hub.log_scalars.get('train/skipped_steps')
        self.total = 0 if counts is None else int(counts.current())
        if hasattr(runner.optim_wrapper, 'skip_flag'):
            runner.optim_wrapper.is_watched = True

    def _save_bundle(self, runner, step: _Step, ranks: list[dict]) -> str:
        """Write the bundle; return a sentence with its path, or why it could not be written."""
        try:
            path = self._write_bundle(runner, step, ranks)
            return f'{path} and the .pth files next to it contain the details'
        except (OSError, RuntimeError) as error:  # PyTorch's archive writer raises the latter
            return f'The bundle with the details could not be written ({error})'
        finally:  # a rank that exits now would abort the others while they write
            broadcast(torch.zeros(()))

    @staticmethod
    def _write_bundle(runner, step: _Step, ranks: list[dict]) -> Path:
        path = Path(runner.work_dir) / f'non_finite_iter_{step.iteration}.json'
        with atomic_write(path.with_name(f'{path.stem}_rank_{rank()}.pth')) as partial:
            torch.save(step.data_batch, partial)
        model = unwrap(runner.model)
        state = full_state_dict(model)  # with FSDP this is a collective
        if is_main_process():
            bad = [
                name
                for name, value in state.items()
                if value.is_floating_point() and not value.isfinite().all()
            ]
            with atomic_write(path) as partial:
                partial.write_text(
                    json.dumps(
                        dict(
                            iteration=step.iteration,
                            ranks=ranks,
                            weights_that_are_not_finite=bad,
                            learning_rates=step.rates,
                            config=runner.cfg.pretty_text,
                        ),
                        indent=1,
                    )
                    + '\n',
                    encoding='utf-8',
                )
        return path


def _losses(outputs: Optional[dict]) -> dict[str, Any]:
    """Losses of a step, which may be on the device."""
    return {
        name: value.detach() if isinstance(value, torch.Tensor) else value
        for name, value in (outputs or {}).items()
        if name.startswith('loss')
    }


def _images(data_batch: Any) -> dict[str, list[str]]:
    """Names of the images of a :class:`NeighborPairs` batch, by branch."""
    if not isinstance(data_batch, dict):
        return {}
    return {
        branch: sorted({str(name) for names in part['path'] for name in names})
        for branch, part in data_batch.items()
        if isinstance(part, dict) and 'path' in part
    }


def _describe(ranks: list[dict]) -> str:
    """Losses and images of the ranks with non-finite losses, or of all ranks if there are none."""
    bad = {
        index: step
        for index, step in enumerate(ranks)
        if not all(map(math.isfinite, step['losses'].values()))
    }
    parts = []
    for index, step in (bad or dict(enumerate(ranks))).items():
        losses = ', '.join(f'{name} {value:g}' for name, value in step['losses'].items())
        images = '; '.join(
            f'{branch}: {", ".join(names)}' for branch, names in step['images'].items()
        )
        parts.append(f'Rank {index}: {losses}. Images of {images or "an unknown source"}')
    return '. '.join(parts)


def settle_steps(runner) -> None:
    """Let each :class:`NonFiniteHook` read whether the last steps were skipped, before a save.

    Args:
        runner (Runner): After a step; all ranks must call this.

    Raises:
        Diverged: If too many steps in a row were skipped.
    """
    for hook in runner.hooks:
        if isinstance(hook, NonFiniteHook):
            hook.settle(runner)
