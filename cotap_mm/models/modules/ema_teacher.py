"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import copy
from typing import Optional

import torch
from torch import Tensor, nn

from cotap_mm.distributed.fsdp import is_shard, local_part, total_norm

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
        # Found once, since searching all modules takes as long as the update.
        self._found: tuple[tuple, list[tuple[dict, dict, str]]] = ((), [])
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
        modules = tuple(parts.values())
        if not modules or self._found[0] != modules:
            found, is_sharded = self._find_parameters(parts)
            self._found = () if is_sharded else modules, found  # FSDP replaces parameters
        found = self._found[1]
        mine = [local_part(own[key]) for own, _, key in found]
        return mine, [local_part(theirs[key]) for _, theirs, key in found]

    def _find_parameters(
        self, parts: dict[str, nn.Module]
    ) -> tuple[list[tuple[dict, dict, str]], bool]:
        """Find each parameter once, as the dicts of both modules that hold it, and its key.

        Also returns whether FSDP has wrapped a module.
        """
        found: list[tuple[dict, dict, str]] = []
        is_sharded = False
        for name, module in parts.items():
            own, others = dict(getattr(self, name).named_modules()), dict(module.named_modules())
            for full_name, _ in module.named_parameters():
                path, _, key = full_name.rpartition('.')
                plain = f'{path}.'.replace(_FSDP, '')[:-1]
                is_sharded = is_sharded or _FSDP in full_name
                found.append((own[plain]._parameters, others[path]._parameters, key))
        return found, is_sharded

    @torch.no_grad()
    def update(
        self, parts: dict[str, nn.Module], decay: float, unless: Optional[Tensor] = None
    ) -> None:
        """Move every parameter toward the student's.

        Args:
            parts (dict[str, nn.Module]): Modules of the student.
            decay (float): Fraction of the **old teacher** that is kept, in [0, 1].
            unless (Tensor, optional): Bool scalar on the device; if True, nothing changes. It is
                not read, so the host does not wait for it. Defaults to None, False.

        Raises:
            ValueError: If ``decay`` is out of range.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f'decay must be in [0, 1], got {decay}')
        mine, theirs = self._parameter_pairs(parts)
        if unless is None:
            torch._foreach_lerp_(mine, theirs, 1 - decay)
            self.num_updates.add_(1)
            return
        _move(mine, theirs, (1 - decay) * (~unless).double())
        self.num_updates.add_(~unless)

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
        shards = [is_shard(own[key]) for own, _, key in self._found[1]]
        return total_norm(gap, shards) / total_norm(size, shards).clamp_min(1e-12)


def _move(kept: list[Tensor], new: list[Tensor], share: Tensor) -> None:
    """Move tensors toward others by a share that is on the device, a float64 scalar."""
    if share.device.type == 'cpu':  # as with a number, to the bit
        shares = {dtype: share.to(dtype) for dtype in {each.dtype for each in kept}}
        torch._foreach_lerp_(kept, new, [shares[each.dtype] for each in kept])
        return
    # lerp with tensors of different shapes is a kernel for each of them.
    gaps = torch._foreach_sub(new, kept)
    torch._foreach_mul_(gaps, share)
    torch._foreach_add_(kept, gaps)
