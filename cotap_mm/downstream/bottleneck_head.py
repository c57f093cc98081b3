"""The paper's convolutional probe: bottleneck blocks with 2x upsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from cotap_mm.registry import MODELS
from cotap_mm.rules import WHOLES, check_arguments, whole


@MODELS.register_module()
class BottleneckFCNHead(BaseDecodeHead):
    """Residual bottleneck blocks, each after 2x bilinear upsampling, and a final 1 x 1 convolution.

    The blocks are ResNet's, with a quarter of the channels inside.

    Source: CoTAP, https://arxiv.org/abs/2509.09429 (FCN protocol).

    Args:
        in_channels (int): Channels of the backbone's last level: 2d with the filter.
        hidden_channels (Sequence[int]): Channels after each block, multiples of 4.
            Defaults to (512, 384, 256).
        **kwargs (dict): Arguments of MMSegmentation's ``BaseDecodeHead``; ``dropout_ratio``
            defaults to 0.1, ``align_corners`` to False.
    """

    @check_arguments(in_channels=whole(1), hidden_channels=WHOLES)
    def __init__(
        self, in_channels: int, hidden_channels: Sequence[int] = (512, 384, 256), **kwargs
    ) -> None:
        kwargs.setdefault('align_corners', False)
        super().__init__(in_channels=in_channels, channels=hidden_channels[-1], **kwargs)
        self.blocks = nn.ModuleList(
            self._block(before, after)
            for before, after in zip((in_channels, *hidden_channels), hidden_channels)
        )

    @staticmethod
    def _block(before: int, after: int) -> nn.Module:
        if after % Bottleneck.expansion:
            raise ValueError(
                f'hidden_channels must be multiples of {Bottleneck.expansion}, got {after}'
            )
        shortcut = (
            None
            if before == after
            else nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
        )
        return Bottleneck(before, after // Bottleneck.expansion, downsample=shortcut)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits (B, num_classes, 8H, 8W for three blocks) from the backbone's levels."""
        features = self._transform_inputs(inputs)
        for block in self.blocks:
            features = block(
                F.interpolate(
                    features, scale_factor=2, mode='bilinear', align_corners=self.align_corners
                )
            )
        return self.cls_seg(features)
