"""Feature pyramid from the single feature map of a plain ViT, for detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.utils import LayerNorm2d
from torch import Tensor, nn

from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, whole


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Resample the last feature map of a ViT to several scales independently.

    Transposed convolutions upsample the map and max pooling downsamples it; 1 x 1 and 3 x 3
    convolutions with layer norm then project each scale to ``out_channels``. Further levels are
    max-pooled from the coarsest one.

    Source: ViTDet, https://arxiv.org/abs/2203.16527.

    Args:
        in_channels (int): Channels of the last level of the backbone, 2d with the filter.
        out_channels (int): Channels of each level. Defaults to 256.
        scale_factors (Sequence[float]): Scale factors among 4, 2, 1 and 0.5, from fine to coarse.
            For patches of 16 pixels, these are strides of 4 to 32. Defaults to (4, 2, 1, 0.5).
        num_outs (int): Number of levels, at least the number of factors. Defaults to 5.
        init_cfg (dict, optional): See MMEngine's ``BaseModule``. Defaults to None.

    Raises:
        ValueError: If a factor is not supported or ``num_outs`` is too small.
    """

    @check_arguments(in_channels=whole(1), out_channels=whole(1), num_outs=whole(1))
    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scale_factors: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        wrong = [factor for factor in scale_factors if factor not in (4, 2, 1, 0.5)]
        if wrong or not scale_factors:
            raise ValueError(f'scale_factors must be among 4, 2, 1 and 0.5, got {scale_factors}')
        if num_outs < len(scale_factors):
            raise ValueError(
                f'num_outs must be at least {len(scale_factors)}, the number of '
                f'scale_factors, got {num_outs}'
            )
        self.in_channels = in_channels
        self.num_outs = num_outs
        self.scales = nn.ModuleList(
            self._scale(factor, in_channels, out_channels) for factor in scale_factors
        )

    @staticmethod
    def _scale(factor: float, width: int, out_channels: int) -> nn.Sequential:
        steps = []
        if factor == 0.5:
            steps.append(nn.MaxPool2d(2))
        if factor == 4:
            steps += [
                nn.ConvTranspose2d(width, width // 2, 2, stride=2),
                LayerNorm2d(width // 2, eps=1e-6),
                nn.GELU(),
            ]
            width //= 2
        if factor >= 2:
            steps.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
            width //= 2
        norm = dict(norm_cfg=dict(type='mmpretrain.LN2d', eps=1e-6), act_cfg=None, bias=False)
        steps += [
            ConvModule(width, out_channels, 1, **norm),
            ConvModule(out_channels, out_channels, 3, padding=1, **norm),
        ]
        return nn.Sequential(*steps)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid from the last level.

        Args:
            levels (Sequence[Tensor]): Feature maps of a backbone, the last one of shape
                (B, in_channels, H, W).

        Returns:
            tuple[Tensor, ...]: ``num_outs`` feature maps, from fine to coarse.
        """
        outputs = [scale(levels[-1]) for scale in self.scales]
        while len(outputs) < self.num_outs:
            outputs.append(torch.nn.functional.max_pool2d(outputs[-1], 1, stride=2))
        return tuple(outputs)
