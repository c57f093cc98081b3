"""Update the teacher after each optimizer step."""

from __future__ import annotations

import logging
import math
from typing import Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log

from cotap_mm.distributed.fsdp import paired_parameters
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, number


@HOOKS.register_module()
class TeacherHook(Hook):
    """Update the teacher as an EMA of the student, once per optimizer step.

    The decay follows a cosine schedule. With gradient accumulation the teacher is updated only
    when the optimizer steps; it is not updated in a step that is skipped for non-finite
    gradients.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        start (float): Share of the **old teacher** that is kept at the first iteration, in
            [0, 1]. Defaults to 0.9997.
        end (float): Share of the old teacher that is kept at the last iteration, in [0, 1].
            Defaults to 0.9999.

    Raises:
        ValueError: If a share is outside of [0, 1].
    """

    @check_arguments(start=number(0, 1), end=number(0, 1))
    def __init__(self, start: float = 0.9997, end: float = 0.9999) -> None:
        self.start = start
        self.end = end

    def decay(self, progress: float) -> float:
        """Share of the old teacher that is kept at a progress of the training in [0, 1]."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2

    def before_train(self, runner) -> None:
        """Warn if a new training starts from random weights."""
        is_random = getattr(unwrap(runner.model), 'is_random', False)
        if is_random and not runner.iter and not runner._load_from:
            print_log(
                'CoTAP is post-pretraining, but no init checkpoint is set: training starts '
                'from random weights. Expect little in short runs; set '
                "init_cfg=dict(type='PretrainedViT', checkpoint=...) or pass --init FILE.",
                logger='current',
                level=logging.WARNING,
            )

    def after_train_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Update the teacher if the optimizer has just stepped; the device decides whether."""
        if not runner.optim_wrapper.should_update():
            return
        model = unwrap(runner.model)
        decay = self.decay(runner.iter / max(runner.max_iters, 1))
        skipped = getattr(runner.optim_wrapper, 'skip_flag', None)
        with paired_parameters(runner.model):
            model.teacher.update(
                model.student, decay, unless=None if skipped is None else skipped.on_device
            )
        runner.message_hub.update_scalar('train/teacher_decay', decay)
