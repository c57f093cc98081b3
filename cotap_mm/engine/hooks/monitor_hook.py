"""Log collapse monitors, and warn if their values suggest a collapse."""

from __future__ import annotations

import logging
import math
from typing import Optional

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.distributed.fsdp import paired_parameters
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.models.device_crops import first_crops
from cotap_mm.registry import HOOKS
from cotap_mm.rules import check_arguments, check_rules, number, or_one_of, ordered_pair, whole

# Lowest and highest value without a warning, and a suggested fix. docs/reliability.md lists the
# values of healthy runs.
_COLLAPSED = 'lower the learning rate, or raise the teacher decay (TeacherHook.start)'
_UNBALANCED = (
    'use a larger queue (model.memory) or a higher temperature; with few images use fewer '
    'clusters (num_clusters)'
)
_LIMITS: dict[str, tuple[float, float, str]] = {
    'feature_std': (0.3, 2.0, f'features have nearly the same direction: {_COLLAPSED}'),
    'prototypes_in_use': (
        0.1,
        1.1,
        'object prototypes are unused: use fewer of them (model.neck.num_prototypes)',
    ),
    'patch_mean_assignment_entropy': (0.4, 1.1, f'few clusters receive all patches: {_UNBALANCED}'),
    'cls_mean_assignment_entropy': (0.4, 1.1, f'few clusters receive all images: {_UNBALANCED}'),
    'patch_assignment_entropy': (
        0.0,
        0.99,
        'patches are assigned to all clusters equally: lower the temperature of the patch '
        'queue (model.memory.patch_queue)',
    ),
    'cls_assignment_entropy': (
        0.0,
        0.99,
        'images are assigned to all clusters equally: lower the temperature of the CLS queue '
        '(model.memory.cls_queue)',
    ),
    'foreground_share': (
        0.05,
        0.95,
        "the teacher's CLS attention marks nothing or everything as foreground: start from "
        'other weights (--init)',
    ),
    'foreground_border_excess': (
        -1.0,
        0.1,
        'the foreground covers the border of the images more than their middle: choose another '
        'one (model.foreground.type=ClippedAttention, MedianAttention or PcaForeground)',
    ),
    'teacher_distance': (
        0.0,
        0.5,
        'the teacher lags far behind the student: lower the teacher decay (TeacherHook) or the '
        'learning rate',
    ),
}


_LIMIT = ordered_pair('numbers', or_one_of(number(), math.inf, -math.inf))


@torch.no_grad()
def measure_monitors(runner, crops: Tensor) -> dict[str, Tensor]:
    """Compute the monitors of the student's features; every rank must call this.

    Args:
        runner (Runner): Its model is a CoTAP, wrapped or not.
        crops (Tensor): uint8, shape (B, 3, h, w).

    Returns:
        dict[str, Tensor]: Scalars, see :meth:`CoTAP.forward`.
    """
    model = unwrap(runner.model)
    images = model.data_preprocessor.normalize(crops.to(next(model.parameters()).device))
    # Called through the wrapper, which may have to gather sharded weights first.
    return runner.model(images, mode='monitors')


@HOOKS.register_module()
class MonitorHook(Hook):
    """Compute the monitors of the algorithm in the iterations that are logged.

    Logged as ``monitor/...``: entropies of the cluster assignments, share of foreground, and
    how much more of the border than of the middle it covers,
    spread of the student's features, share of prototypes in use, and the distance between
    teacher and student. They cost one small extra forward pass per interval. Values that
    suggest a collapse are logged as a warning, once until they recover, with a suggested fix.

    Args:
        interval (int): Iterations between two measurements; use the logger's interval. Defaults
            to 50.
        num_images (int): Number of crops for the extra forward pass. Defaults to 8.
        limits (dict[str, tuple[float, float]], optional): Monitor -> lowest and highest value
            without a warning; replaces the built-in limits of these monitors.

    Raises:
        ValueError: If a number is out of range, or ``limits`` contains an unknown monitor.
    """

    priority = 'NORMAL'  # before the logger, which is BELOW_NORMAL

    @check_arguments(interval=whole(1), num_images=whole(1))
    def __init__(
        self,
        interval: int = 50,
        num_images: int = 8,
        limits: Optional[dict[str, tuple[float, float]]] = None,
    ) -> None:
        unknown = set(limits or {}) - set(_LIMITS)
        if unknown:
            raise ValueError(
                f'limits must be for monitors of {sorted(_LIMITS)}, got {sorted(unknown)}'
            )
        check_rules(limits or {}, dict.fromkeys(limits or {}, _LIMIT), 'limits.')
        self.interval = interval
        self.num_images = num_images
        self.limits = {
            name: (limits or {}).get(name, (low, high)) for name, (low, high, _) in _LIMITS.items()
        }
        self._warned: dict[str, bool] = {}

    @staticmethod
    def _model(runner):
        return unwrap(runner.model)

    def before_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Enable the monitors in iterations that will be logged."""
        self._model(runner).monitor_now = self.every_n_train_iters(runner, self.interval)

    @torch.no_grad()
    def after_train_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Compute and log the monitors that no loss computes; warn if a value is out of range."""
        model = self._model(runner)
        if not model.monitor_now:
            return
        crops = first_crops(data_batch, self.num_images)
        values = measure_monitors(runner, crops)
        with paired_parameters(runner.model):
            values['teacher_distance'] = model.teacher.distance(model.student)
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/monitor/{name}', float(value))
        values.update(
            {
                name[len('monitor/') :]: value
                for name, value in (outputs or {}).items()
                if name.startswith('monitor/')
            }
        )
        self._warn({name: float(value) for name, value in values.items()}, runner.iter + 1)

    def _warn(self, values: dict[str, float], iteration: int) -> None:
        for name, (low, high) in self.limits.items():
            if name not in values:
                continue
            is_bad = not low <= values[name] <= high
            if is_bad and not self._warned.get(name):
                print_log(
                    f'iteration {iteration}: monitor/{name} is {values[name]:.3g}, outside of '
                    f'[{low:g}, {high:g}]: {_LIMITS[name][2]}',
                    logger='current',
                    level=logging.WARNING,
                )
            self._warned[name] = is_bad
