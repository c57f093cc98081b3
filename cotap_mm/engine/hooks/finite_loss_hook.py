"""Stops a training whose loss is no number."""
import math
from typing import Optional

from mmengine.hooks import Hook

from cotap_mm.registry import HOOKS


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at the first loss that is NaN or infinite, and say which terms are.

    It looks once the step is done, before the teacher moves and before anything is saved, so
    the newest checkpoint is of finite weights. (On a CPU the losses themselves raise, before
    the backward pass.)
    """

    priority = 'HIGH'  # in front of the EMA of the teacher

    def after_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Look at the losses of the step.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        values = {name: float(value) for name, value in (outputs or {}).items()
                  if name.startswith('loss')}
        bad = [f'{name} = {value}' for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f'iteration {runner.iter + 1}: {", ".join(bad)}. Resume from the last checkpoint '
                "with a lower learning rate, or with optim_wrapper.dtype='bfloat16' or 'float32'")
