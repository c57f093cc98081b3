"""Head from features to scores: cosines with learnable cluster centers."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from cotap_mm.models.lean_saving import save_source
from cotap_mm.ops import at_least_float32
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, whole


@MODELS.register_module()
class PrototypeHead(BaseModule):
    """An MLP and the cosines of its output with K cluster centers.

    Linear, GELU, Linear, GELU, Linear without bias, L2 normalization, then a linear layer whose
    rows have unit length (weight normalization with gain 1).

    Source: CoTAP, https://arxiv.org/abs/2509.09429; the head is SwAV's and DINO's.

    Args:
        in_channels (int): Width of the features, 2d after the filter.
        num_clusters (int): K, 512 for patches and 4096 for CLS in the paper.
        hidden_channels (int): Width of the hidden layers. Defaults to 2048.
        out_channels (int): Width of the centers. Defaults to 256.
        init_cfg (dict, optional): See MMEngine's ``BaseModule``. Defaults to None.

    Raises:
        ValueError: If a width or the number of clusters is not a positive integer.
    """

    @check_arguments(
        in_channels=whole(1), num_clusters=whole(1), hidden_channels=whole(1), out_channels=whole(1)
    )
    def __init__(
        self,
        in_channels: int,
        num_clusters: int,
        hidden_channels: int = 2048,
        out_channels: int = 256,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_clusters = num_clusters
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, out_channels, bias=False),
        )
        self.centers = nn.Parameter(torch.empty(num_clusters, out_channels))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.centers, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., C) to scores in [-1, 1], shape (..., K), at least float32."""
        first, act, second, act_again, last = self.mlp
        hidden = save_source(act, first(features), second)
        embedding = at_least_float32(save_source(act_again, hidden, last))
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(F.normalize(embedding, dim=-1), F.normalize(self.centers, dim=-1))
