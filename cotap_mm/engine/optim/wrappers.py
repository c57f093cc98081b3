"""Mixed precision for the device at hand; steps with non-finite gradients are skipped."""

from __future__ import annotations

import logging
from typing import Optional

import torch
from mmengine.device import is_cuda_available
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from cotap_mm.compat.low_precision_operators import allow_low_precision_operators
from cotap_mm.distributed.collectives import all_reduce_min
from cotap_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(AmpOptimWrapper):
    """MMEngine's AmpOptimWrapper that picks the precision for the device.

    bfloat16 needs no loss scaling and is used where the device has it; older GPUs
    get float16 with dynamic loss scaling. Losses, Sinkhorn and k-means stay in
    float32 in any case.

    A step whose gradients are not all finite is left out: weights and the optimiser's
    state stay as they are. Gradients are the same on all ranks, so all leave it out; with
    Adam on a GPU no one waits for the device to know.

    Args:
        dtype (str): ``'auto'``, ``'bfloat16'``, ``'float16'`` or ``'float32'``.
            ``'auto'`` is float32 on a CPU, where half precision is slow.
        **kwargs: As in MMEngine's OptimWrapper.

    Raises:
        ValueError: If ``dtype`` is unknown, or float16 is asked for without a GPU.
    """

    def __init__(self, dtype: str = 'auto', **kwargs) -> None:
        choices = ('auto', 'bfloat16', 'float16', 'float32')
        self._is_bad: Optional[torch.Tensor] = None
        self.is_watched = False  # by a NonFiniteHook, which logs skipped steps
        self._num_unwatched = 0
        self.is_sharded = False  # each rank has gradients of its own, see CoTAPFSDPStrategy
        if dtype not in choices:
            raise ValueError(f'dtype must be one of {choices}, got {dtype!r}')
        if dtype == 'auto':
            if not is_cuda_available():
                dtype = 'float32'
            else:
                dtype = 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
        if dtype == 'float16':
            if not is_cuda_available():
                raise ValueError("float16 needs a GPU, and none is visible; use dtype='bfloat16'")
            super().__init__(dtype=dtype, **kwargs)
            return
        # No loss scaling: the parent's constructor insists on a GPU for its scaler.
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.cuda.amp.GradScaler(enabled=False)
        self.cast_dtype = getattr(torch, dtype)
        if dtype == 'bfloat16' and not is_cuda_available():
            allow_low_precision_operators()

    def optim_context(self, model: nn.Module):
        """Autocast in the chosen precision; none at all for float32."""
        if self.cast_dtype is torch.float32:
            return OptimWrapper.optim_context(self, model)
        return super().optim_context(model)

    def step(self, **kwargs) -> None:
        """The optimiser's step, unless a gradient is NaN or infinite."""
        self._warn_of_last_step()
        grads = [
            param.grad
            for group in self.optimizer.param_groups
            for param in group['params']
            if param.grad is not None
        ]
        is_finite = torch.stack(torch._foreach_norm(grads)).sum().isfinite()
        if self.is_sharded:
            is_finite = all_reduce_min(is_finite.int()).bool()
        self._is_bad = ~is_finite
        if self.optimizer.defaults.get('fused'):
            # Where set, the kernel looks at it. With float16 the loss scaler sets its own.
            self.optimizer.found_inf = self._is_bad.float()
            super().step(**kwargs)
        elif self.loss_scaler.is_enabled() or is_finite:
            super().step(**kwargs)

    def _warn_of_last_step(self) -> None:
        """Log a skipped step where no hook does; one step late, so that a GPU need not wait."""
        if self.is_watched or not self.left_out:
            return
        self._num_unwatched += 1
        print_log(
            f'gradients were not finite, and the step was skipped ({self._num_unwatched} '
            'in all); with NonFiniteHook the log has the losses and the images, and the '
            'training stops if that goes on',
            logger='current',
            level=logging.WARNING,
        )

    @property
    def left_out(self) -> bool:
        """Whether the last step of the optimiser was left out. Waits for the device."""
        return self._is_bad is not None and bool(self._is_bad)
