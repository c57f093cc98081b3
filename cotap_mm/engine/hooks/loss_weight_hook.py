"""Schedules of the weights of losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

from mmengine.hooks import Hook

from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.registry import HOOKS
from cotap_mm.rules import number, sequence

_PAIR = sequence('two numbers >= 0', number(0), 2)


@HOOKS.register_module()
class LossWeightHook(Hook):
    """Change the weights of losses during a training, by a cosine from one value to another.

    Example::

        custom_hooks = [dict(type='LossWeightHook', weights=dict(gram=(1.0, 0.1)))]

    Args:
        weights (dict[str, Sequence[float]]): Name of a loss -> its weight at the first and at the
            last iteration; replaces ``model.loss_weights``.

    Raises:
        ValueError: If a value is not a pair of numbers >= 0, or, when the training starts, the
            model has no such loss.
    """

    def __init__(self, weights: dict[str, Sequence[float]]) -> None:
        for name, pair in weights.items():
            if not _PAIR.holds(pair):
                raise ValueError(
                    f'weights.{name} must be two numbers >= 0, for the first and the last '
                    f'iteration, got {pair!r}'
                )
        self.weights = {name: tuple(pair) for name, pair in weights.items()}

    def before_train(self, runner) -> None:
        """Check the names."""
        losses = unwrap(runner.model).losses
        unknown = sorted(set(self.weights) - set(losses))
        if unknown:
            raise ValueError(
                f'LossWeightHook.weights: the model has no loss {", ".join(unknown)}; it has '
                f'{", ".join(losses)} (model.losses)'
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Set the weights of this iteration."""
        progress = runner.iter / max(runner.max_iters - 1, 1)
        losses = unwrap(runner.model).losses
        for name, (start, end) in self.weights.items():
            left = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
            losses.weights[name] = end + (start - end) * left
