"""A frozen copy of the network that a training starts from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cotap_mm.ops import patch_tokens


class AnchorNetwork(nn.Module):
    """The initial backbone of a training; it never changes, and gets no gradient.

    It is a part of each checkpoint, since the initial weights may no longer exist when a run is
    resumed.

    Args:
        backbone (nn.Module): A :class:`DINOViT`; copied.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> AnchorNetwork:
        """Stay in eval mode, regardless of ``mode``."""
        return super().train(False)

    @torch.no_grad()
    def copy_from(self, backbone: nn.Module) -> None:
        """Copy the weights of the initial network."""
        self.backbone.load_state_dict(backbone.state_dict())

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the patches that leave the last block.

        Args:
            images (Tensor): Normalized images, shape (B, 3, h, w).

        Returns:
            Tensor: Shape (B, N, d).
        """
        _, leaving, grid = self.backbone.forward_tokens(images)
        return patch_tokens(leaving, grid)
