"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_FSDP = '_fsdp_wrapped_module.'  # in the names of modules that FSDP has wrapped


class EMATeacher(nn.Module):
    """Exponential moving average of every student parameter.

    Its parts have the names of the student's (``teacher.backbone``, ``teacher.neck``,
    ``teacher.head``), are always in eval mode and get no gradient.
    :class:`cotap_mm.engine.TeacherHook` updates it after each optimizer step.

    Args:
        parts (dict[str, nn.Module]): Modules of the student; copied.
    """

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in parts.items():
            self.add_module(name, copy.deepcopy(module))
        self.requires_grad_(False)
        self.register_buffer('num_updates', torch.zeros((), dtype=torch.long))
        self._num_checks = 0
        self.train()

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in eval mode, regardless of ``mode``."""
        return super().train(False)

    def check_updates(self, patience: int) -> None:
        """Check that something updates the teacher; to be called once per training step.

        Args:
            patience (int): Number of calls after which a missing update is an error.

        Raises:
            RuntimeError: If there was no update in the first ``patience`` calls.
        """
        self._num_checks += 1
        if self._num_checks == patience and not self.num_updates:
            raise RuntimeError(
                f'the teacher was not updated in {patience} steps: nothing calls teacher.update(). '
                "Add teacher=dict(type='cotap_mm.TeacherHook') to default_hooks."
            )

    def _parameter_pairs(self, parts: dict[str, nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
        mine, theirs = [], []
        for name, module in parts.items():
            own = dict(getattr(self, name).named_parameters())
            for key, param in module.named_parameters():
                mine.append(own[key.replace(_FSDP, '')].data)
                theirs.append(param.data)
        return mine, theirs

    @torch.no_grad()
    def update(self, parts: dict[str, nn.Module], decay: float) -> None:
        """Move every parameter toward the student's.

        Args:
            parts (dict[str, nn.Module]): Modules of the student.
            decay (float): Fraction of the **old teacher** that is kept, in [0, 1].

        Raises:
            ValueError: If ``decay`` is out of range.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f'decay must be in [0, 1], got {decay}')
        mine, theirs = self._parameter_pairs(parts)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        self.num_updates.add_(1)

    @torch.no_grad()
    def copy_from(self, parts: dict[str, nn.Module]) -> None:
        """Copy the student exactly."""
        for name, module in parts.items():
            getattr(self, name).load_state_dict(module.state_dict())

    @torch.no_grad()
    def distance(self, parts: dict[str, nn.Module]) -> Tensor:
        """Compute the relative L2 distance to the student over all parameters, a scalar."""
        mine, theirs = self._parameter_pairs(parts)
        gap = torch._foreach_norm(torch._foreach_sub(mine, theirs))
        size = torch._foreach_norm(theirs)
        return torch.stack(gap).norm() / torch.stack(size).norm().clamp_min(1e-12)
