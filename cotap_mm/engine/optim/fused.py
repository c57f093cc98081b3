"""Choose the fused implementation of Adam, on GPUs and on CPUs."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import nn

from cotap_mm.compat.workarounds import version_numbers

#: First version of torch whose fused Adam runs on a CPU.
_FIRST_ON_CPU = (2, 4)


def choose_fused(optimizer: dict[str, Any], model: nn.Module) -> Optional[bool]:
    """Decide whether an optimizer is fused: one kernel instead of a loop over all parameters.

    The result differs by rounding only. A choice of the user (``fused``, ``foreach`` or
    ``differentiable``) is kept.

    Args:
        optimizer (dict): Config of the optimizer.
        model (nn.Module): Model that it trains, on its device.

    Returns:
        bool | None: True for Adam and AdamW if all parameters are on GPUs, or all are on the CPU
        and torch supports it there (>= 2.4), else None.
    """
    if optimizer.get('type') not in ('Adam', 'AdamW'):
        return None
    if any(optimizer.get(key) is not None for key in ('fused', 'foreach', 'differentiable')):
        return None
    if all(param.is_cuda for param in model.parameters()):
        return True
    on_cpu = all(param.device.type == 'cpu' for param in model.parameters())
    is_supported = version_numbers(torch.__version__) >= _FIRST_ON_CPU
    return True if on_cpu and is_supported else None


def keep_implementation(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer keep its implementation when it loads a state, and check the shapes.

    A state contains the implementation of the run that saved it, perhaps on another device or by an
    earlier version, and step counters where that one needs them. PyTorch does not compare its
    shapes with those of the parameters, and a fused kernel would mix up their elements.

    Args:
        optimizer (Optimizer): Any; only Adam and AdamW are changed. Loading a state of other
            shapes raises a ValueError.
    """
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        optimizer.register_load_state_dict_post_hook(_restore)


def _restore(optimizer: torch.optim.Optimizer) -> None:
    fused = optimizer.defaults.get('fused')
    for group in optimizer.param_groups:
        group['fused'], group['foreach'] = fused, optimizer.defaults.get('foreach')
        for param in group['params']:
            state = optimizer.state.get(param, {})
            _check_shapes(param, state)
            if 'step' in state:
                device = param.device if fused or group.get('capturable') else 'cpu'
                step = torch.as_tensor(state['step'], dtype=torch.float32)
                state['step'] = step.to(device)


def _check_shapes(param: nn.Parameter, state: dict[str, Any]) -> None:
    whole = getattr(param, 'sharded', param)
    for value in state.values():
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape != param.shape:
            raise ValueError(
                f"checkpoint does not fit: the optimizer's state of a parameter of shape "
                f'{tuple(whole.shape)} has shape {tuple(value.shape)}; resume with the network of '
                'the run, or start a new run from its weights (--init)'
            )
