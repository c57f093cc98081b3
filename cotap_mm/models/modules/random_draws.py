"""All random choices of one training step, in one replaceable object."""

from __future__ import annotations

import torch
from torch import Tensor

from cotap_mm.ops import sample_negatives


class RandomDraws:
    """Draws from torch's global CPU generator.

    The algorithm asks here for every random choice it makes, so that a test can
    replay recorded ones and the state to save is one generator.
    """

    def order(self, purpose: str, count: int) -> Tensor:
        """A random order of ``count`` things, int64 (count,); ``purpose`` names the use."""
        return torch.randperm(count)

    def foreground_patches(self, foreground: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Random foreground patches, without waiting for the device.

        Args:
            foreground (Tensor): bool, shape (N,).
            count (int): Most patches to choose.

        Returns:
            tuple[Tensor, Tensor]: Indices (min(count, N),), those of the foreground first,
            and how many of them are of the foreground (a scalar), both int64.
        """
        keys = torch.rand(len(foreground)).to(foreground.device, non_blocking=True)
        chosen = keys.masked_fill(~foreground, -1).topk(min(count, len(foreground))).indices
        return chosen, foreground[chosen].sum()

    def negatives(self, num_images: int, num_negatives: int) -> Tensor:
        """Other images for each image, see :func:`cotap_mm.ops.sample_negatives`."""
        return sample_negatives(num_images, num_negatives)

    def top_patches(self, foreground: Tensor, count: int) -> Tensor:
        """Indices of the ``count`` largest values of each row, (B, N) -> (B, count)."""
        return foreground.topk(count, dim=1).indices
