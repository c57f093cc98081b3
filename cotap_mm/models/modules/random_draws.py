"""All random choices of a training step in one replaceable object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from cotap_mm.ops import pinned, sample_negatives


class RandomDraws:
    """Draws from torch's global CPU generator, in pinned memory if a GPU is in use.

    The algorithm makes every random choice here. So a test can replay recorded choices, and the
    state to save is that of one generator.

    On a device, the numbers of a step are drawn :meth:`ahead`, in the order in which the step asks
    for them, copied there together, and given back to :meth:`hold`. The values are the same, and so
    is the state of the generator after the step.
    """

    _held: Optional[dict[str, Tensor]] = None

    def ahead(self, requests: Iterable[tuple[Any, ...]]) -> dict[str, Tensor]:
        """Draw numbers before a step asks for them.

        Args:
            requests (Iterable[tuple]): In the order of the step: ``('order', purpose, count)``,
                ``('keys', count)``, which are those of :meth:`foreground_patches`, or
                ``('negatives', num_images, num_negatives)``.

        Returns:
            dict[str, Tensor]: The numbers, on the CPU, by request.
        """
        return {
            f'{index}: {_name(request)}': _draw(*request) for index, request in enumerate(requests)
        }

    def hold(self, numbers: Optional[Mapping[str, Tensor]]) -> None:
        """Keep numbers of :meth:`ahead` for the requests of a step, each for one; None: none.

        Whatever else the step asks for is drawn then.
        """
        self._held = dict(numbers or {})

    def _take(self, *request: Any) -> Tensor:
        held = self._held or {}
        for name in held:
            if name.partition(': ')[2] == _name(request):
                return held.pop(name)
        return pinned(_draw(*request))

    def order(self, purpose: str, count: int) -> Tensor:
        """Draw a permutation of ``count`` items, int64 (count,); ``purpose`` names its use."""
        return self._take('order', purpose, count)

    def foreground_patches(self, foreground: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Draw foreground patches without synchronizing host and device.

        Args:
            foreground (Tensor): bool, shape (N,).
            count (int): Maximum number of patches.

        Returns:
            tuple[Tensor, Tensor]: Indices (min(count, N),), foreground patches first, and the
            number of foreground patches among them (a scalar), both int64.
        """
        keys = self._take('keys', len(foreground)).to(foreground.device, non_blocking=True)
        chosen = keys.masked_fill(~foreground, -1).topk(min(count, len(foreground))).indices
        return chosen, foreground[chosen].sum()

    def negatives(self, num_images: int, num_negatives: int) -> Tensor:
        """Draw other images for each image, see :func:`cotap_mm.ops.sample_negatives`."""
        return self._take('negatives', num_images, num_negatives)

    def top_patches(self, foreground: Tensor, count: int) -> Tensor:
        """Return the indices of the ``count`` largest values of each row, (B, N) -> (B, count)."""
        return foreground.topk(count, dim=1).indices


def _name(request: tuple[Any, ...]) -> str:
    return ' '.join(map(str, request))


def _draw(kind: str, *args: Any) -> Tensor:
    if kind == 'order':
        return torch.randperm(args[1])
    return torch.rand(*args) if kind == 'keys' else sample_negatives(*args)
