"""Mixed precision that fits the device, and skips steps with non-finite gradients."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import torch
from mmengine.device import is_cuda_available
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn

from cotap_mm.compat.low_precision_operators import allow_low_precision_operators
from cotap_mm.deprecation import warn_renamed
from cotap_mm.distributed.collectives import all_reduce_min
from cotap_mm.distributed.fsdp import is_shard, total_norm
from cotap_mm.engine.late_values import LateFlag, log_later
from cotap_mm.registry import OPTIM_WRAPPERS
from cotap_mm.rules import check_arguments, one_of, whole


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(AmpOptimWrapper):
    """MMEngine's AmpOptimWrapper with a precision that fits the device.

    bfloat16 needs no loss scaling and is used if the device supports it; older GPUs use
    float16 with dynamic loss scaling. Losses, Sinkhorn, k-means and foreground masks are always
    computed in float32, from the scores and attention weights on.

    A step with a NaN or infinite gradient is skipped: weights and optimizer state do not
    change. Gradients are the same on all ranks, so all ranks skip it. Fused optimizers, such as
    Adam by default on a GPU, skip it on the device; with others the host waits for the check,
    since skipping on the device would need a copy of all weights and of the optimizer's state.

    Groups of parameters may have ``lr_scale``, a factor of their learning rate that schedules do
    not see, and ``freeze_iters``, the number of first iterations in which they do not change; see
    :class:`CoTAPOptimWrapperConstructor`.

    Args:
        dtype (str): ``'auto'``, ``'bfloat16'``, ``'float16'`` or ``'float32'``.
            ``'auto'`` is float32 on a CPU, where half precision is slow.
        **kwargs (dict): Arguments of MMEngine's OptimWrapper.

    Raises:
        ValueError: If ``dtype`` is unknown, or float16 is requested without a GPU.
    """

    @check_arguments(
        dtype=one_of('auto', 'bfloat16', 'float16', 'float32'), accumulative_counts=whole(1)
    )
    def __init__(self, dtype: str = 'auto', **kwargs) -> None:
        self._skipped: Optional[LateFlag] = None  # by the last step
        self.is_watched = False  # whether a NonFiniteHook logs skipped steps
        self._num_unwatched = 0
        self.is_sharded = False  # whether gradients differ by rank, see CoTAPFSDPStrategy
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
        # No loss scaling: the parent's constructor requires a GPU for its scaler.
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = _no_loss_scaler()
        self.cast_dtype = getattr(torch, dtype)
        if dtype == 'bfloat16' and not is_cuda_available():
            allow_low_precision_operators()

    def optim_context(self, model: nn.Module):
        """Autocast to the chosen precision; no autocast for float32."""
        if self.cast_dtype is torch.float32:
            return OptimWrapper.optim_context(self, model)
        return super().optim_context(model)

    def step(self, **kwargs) -> None:
        """Make an optimizer step, unless a gradient is NaN or infinite."""
        self._warn_of_last_step()
        self._drop_frozen_gradients()
        grads = [
            param.grad
            for group in self.optimizer.param_groups
            for param in group['params']
            if param.grad is not None
        ]
        is_finite = torch.stack(torch._foreach_norm(grads)).sum().isfinite()
        if self.is_sharded:
            is_finite = all_reduce_min(is_finite.int()).bool()
        self._skipped = LateFlag(~is_finite)
        if self.optimizer.defaults.get('fused'):
            # The fused kernel reads found_inf. With float16 the loss scaler sets its own.
            self.optimizer.found_inf = self._skipped.on_device.float()
        elif not self.loss_scaler.is_enabled() and self.step_skipped:
            return
        with self._scaled_rates():
            super().step(**kwargs)

    def _clip_grad(self) -> None:
        """Clip the gradients, and log their norm without waiting for it."""
        params = [
            param
            for group in self.optimizer.param_groups
            for param in group['params']
            if param.requires_grad and param.grad is not None
        ]
        norm = self._clip(params) if params else None
        if norm is not None:  # None if values are clipped
            log_later(self.message_hub, f'train/{self.grad_name}', norm)

    def _clip(self, params: list[nn.Parameter]) -> Optional[Tensor]:
        """Clip the gradients, and return their norm if it is what is clipped."""
        options = dict(self.clip_grad_kwargs)
        if not self.is_sharded or self.clip_func is not nn.utils.clip_grad_norm_:
            return self.clip_func(params, **options)
        kind = float(options.pop('norm_type', 2.0))
        norms = torch._foreach_norm([param.grad for param in params], kind)
        norm = total_norm(norms, [is_shard(param) for param in params], kind)
        nn.utils.clip_grads_with_norm_(params, options['max_norm'], norm, options.get('foreach'))
        return norm

    def _drop_frozen_gradients(self) -> None:
        """Let groups that are still frozen keep their parameters and their optimizer state."""
        for group in self.optimizer.param_groups:
            if self._inner_count <= group.get('freeze_iters', 0):
                for param in group['params']:
                    param.grad = None

    @contextmanager
    def _scaled_rates(self) -> Iterator[None]:
        """Scale the learning rates of groups by their ``lr_scale``."""
        rates = [group['lr'] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            if 'lr_scale' in group:
                group['lr'] = group['lr'] * group['lr_scale']
        try:
            yield
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates):
                group['lr'] = rate

    def _warn_of_last_step(self) -> None:
        """Log a skipped step if no hook does; one step late, to avoid waiting for the GPU."""
        if self.is_watched or not self.step_skipped:
            return
        self._num_unwatched += 1
        print_log(
            f'gradients were not finite, so the step was skipped ({self._num_unwatched} '
            'in total); with NonFiniteHook the log shows the losses and images, and the '
            'training stops after too many in a row',
            logger='current',
            level=logging.WARNING,
        )

    @property
    def skip_flag(self) -> Optional[LateFlag]:
        """Whether the last optimizer step was skipped, on the device; None before the first."""
        return self._skipped

    @property
    def step_skipped(self) -> bool:
        """Whether the last optimizer step was skipped. Waits until the device has decided."""
        return self._skipped is not None and self._skipped.read()

    @property
    def left_out(self) -> bool:
        """Deprecated name of :attr:`step_skipped`."""
        warn_renamed('MixedPrecisionOptimWrapper.left_out', 'step_skipped')
        return self.step_skipped


def _no_loss_scaler() -> Any:
    """A loss scaler that is switched off."""
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler('cuda', enabled=False)
    return torch.cuda.amp.GradScaler(enabled=False)  # torch < 2.3
