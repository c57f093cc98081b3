"""All random choices of a training step in one replaceable object."""

from __future__ import annotations

import torch
from torch import Tensor

from cotap_mm.ops import pinned, sample_negatives


class RandomDraws:
    """Draws from torch's global CPU generator, in pinned memory if a GPU is in use.

    The algorithm makes every random choice here. So a test can replay recorded choices, and the
    state to save is that of one generator.
    """

    def order(self, purpose: str, count: int) -> Tensor:
        """Draw a permutation of ``count`` items, int64 (count,); ``purpose`` names its use."""
        return pinned(torch.randperm(count))

    def foreground_patches(self, foreground: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Draw foreground patches without synchronizing host and device.

        Args:
            foreground (Tensor): bool, shape (N,).
            count (int): Maximum number of patches.

        Returns:
            tuple[Tensor, Tensor]: Indices (min(count, N),), foreground patches first, and the
            number of foreground patches among them (a scalar), both int64.
        """
        keys = pinned(torch.rand(len(foreground))).to(foreground.device, non_blocking=True)
        chosen = keys.masked_fill(~foreground, -1).topk(min(count, len(foreground))).indices
        return chosen, foreground[chosen].sum()

    def negatives(self, num_images: int, num_negatives: int) -> Tensor:
        """Draw other images for each image, see :func:`cotap_mm.ops.sample_negatives`."""
        return pinned(sample_negatives(num_images, num_negatives))

    def top_patches(self, foreground: Tensor, count: int) -> Tensor:
        """Return the indices of the ``count`` largest values of each row, (B, N) -> (B, count)."""
        return foreground.topk(count, dim=1).indices
