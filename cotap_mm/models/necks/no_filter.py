"""Ablation of the object-aware filter."""

from __future__ import annotations

from typing import Optional

from mmengine.model import BaseModule
from torch import Tensor, nn

from cotap_mm.ops import patch_tokens
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, whole


@MODELS.register_module()
class NoFilter(BaseModule):
    """Replace the object-aware filter by a normalization of the tokens.

    To train without the filter, set ``neck=dict(_delete_=True, type='NoFilter')`` and
    ``losses=dict(prototype_entropy=None)``. The backbone for downstream tasks is then a plain ViT.

    Args:
        in_channels (int): d, width of the tokens.
        init_cfg (dict, optional): See MMEngine's ``BaseModule``. Defaults to None.
    """

    num_prototypes = 0

    @check_arguments(in_channels=whole(1))
    def __init__(self, in_channels: int, init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = self.out_channels = in_channels
        self.norm_patch = nn.LayerNorm(in_channels, eps=1e-6)
        self.norm_cls = nn.LayerNorm(in_channels, eps=1e-6)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], block: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Normalize tokens (B, 1+N, d); returns CLS (B, d) and patches (B, N, d)."""
        return self.filter_cls(tokens[:, 0], block), self.filter_patches(
            patch_tokens(tokens, grid), grid, block
        )

    def filter_patches(self, patches: Tensor, grid: tuple[int, int], block: nn.Module) -> Tensor:
        """Normalize patches (B, N, d)."""
        return self.norm_patch(patches)

    def filter_cls(self, cls_token: Tensor, block: nn.Module) -> Tensor:
        """Normalize CLS tokens (B, d)."""
        return self.norm_cls(cls_token)
