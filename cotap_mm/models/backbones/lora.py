"""Low-rank adaptation: frozen layers with small trainable updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.registry import MODELS
from cotap_mm.rules import check_rules, number, whole

from .blocks import KeyUnbiasedLinear
from .dino_vit import DINOViT

#: Groups of layers -> start of their names in a block.
_TARGETS = dict(qkv='attn.qkv', proj='attn.proj', mlp='ffn.')
_BASE = 'lora_base'  # in a state dict


class LoRALinear(nn.Linear):
    """Linear layer with a frozen weight W and a trainable update of low rank, (alpha / r) B A.

    ``weight`` is W, so initial weights load as into the plain layer. In a state dict ``weight`` is
    the merged weight W + (alpha / r) B A, which any reader may use as it is; W is beside it as
    ``lora_base``, so that a resumed run continues without a rounding error. At the start B is zero
    and the layer equals the plain one bit for bit.

    MMPretrain's ``LoRAModel`` computes the same, but its state dict lacks W, and code that reads
    ``weight``, as the object-aware filter does, would not see the update.

    Source: LoRA, https://arxiv.org/abs/2106.09685.

    Args:
        plain (nn.Linear): Layer d -> e, whose parameters are taken over.
        rank (int): r.
        alpha (float): Scale of the update is alpha / r.
    """

    def __init__(self, plain: nn.Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._lacks_key_bias = isinstance(plain, KeyUnbiasedLinear)
        self.lora_down = nn.Parameter(torch.empty(rank, self.in_features))
        self.lora_up = nn.Parameter(torch.zeros(self.out_features, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    @property
    def effective_weight(self) -> Tensor:
        """The merged weight, shape (e, d)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight + self.scale * (self.lora_up @ self.lora_down)

    @property
    def effective_bias(self) -> Optional[Tensor]:
        """Bias of shape (e,), as the plain layer uses it."""
        if self._lacks_key_bias:
            return KeyUnbiasedLinear.effective_bias.fget(self)  # type: ignore[attr-defined]
        return self.bias

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., d) to (..., e)."""
        out = F.linear(tokens, self.weight, self.effective_bias)
        low = F.linear(tokens, self.lora_down).flatten(0, -2)  # (..., r)
        # One product that adds to the output; a sum would hold two more tensors of its size.
        merged = torch.addmm(out.flatten(0, -2), low, self.lora_up.T, alpha=self.scale)
        return merged.view(out.shape)

    def _save_to_state_dict(self, destination, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        parts = (self.weight, self.lora_down, self.lora_up)
        if not keep_vars and all(part.ndim == 2 for part in parts):  # FSDP gathers on rank 0 only
            # Copies, since FSDP frees what it has gathered.
            destination[prefix + _BASE] = destination[prefix + 'weight'].clone()
            destination[prefix + 'weight'] = self.effective_weight.detach()

    def _load_from_state_dict(self, state_dict, prefix: str, *args: Any) -> None:
        base = state_dict.pop(prefix + _BASE, None)
        if base is not None:
            state_dict[prefix + 'weight'] = base
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class LoRAViT(DINOViT):
    """A :class:`DINOViT` whose weights are frozen and adapted by LoRA.

    ``frozen_stages=k`` adapts the first k blocks and trains the others entirely, as ExPLoRA does;
    by default, all blocks are adapted.

    Source: LoRA, https://arxiv.org/abs/2106.09685; ExPLoRA, https://arxiv.org/abs/2406.10973.

    Args:
        lora (dict): ``rank`` (int), r; ``alpha`` (float), scale of the update times r, by default
            r; ``targets`` (sequence), layers that are adapted, of ``'qkv'``, ``'proj'`` and
            ``'mlp'``, by default all.
        **kwargs: Arguments of :class:`DINOViT`.

    Raises:
        ValueError: If an option is invalid or no block is adapted.
    """

    def __init__(self, lora: dict, **kwargs: Any) -> None:
        rank, alpha, targets = _checked(**lora)
        frozen_stages = kwargs.pop('frozen_stages', -1)
        super().__init__(**kwargs)
        count = self.num_layers if frozen_stages < 0 else frozen_stages
        if not 1 <= count <= self.num_layers:
            raise ValueError(
                f'LoRA adapts frozen blocks: frozen_stages must be in 1..{self.num_layers} (-1 for '
                f'all), got {frozen_stages}'
            )
        if rank > self.embed_dims:
            raise ValueError(
                f'lora.rank must be at most the width {self.embed_dims}, got {rank}; 8 is usual'
            )
        for block in self.layers[:count]:
            _adapt(block, rank, alpha, targets)
        self.frozen_stages = count
        self._freeze_stages()

    def _freeze_stages(self) -> None:
        updates = [p for name, p in self.named_parameters() if '.lora_' in name and p.requires_grad]
        super()._freeze_stages()  # those, too
        for parameter in updates:
            parameter.requires_grad_(True)


def _checked(
    rank: Any = None, alpha: Optional[float] = None, targets: Sequence[str] = tuple(_TARGETS)
) -> tuple[int, float, tuple[str, ...]]:
    """Return the options of LoRA, after a check."""
    alpha = rank if alpha is None else alpha
    rules = dict(rank=whole(1), alpha=number(0, above=True))
    check_rules(dict(rank=rank, alpha=alpha), rules, 'lora.')
    unknown = sorted(set(targets) - set(_TARGETS))
    if unknown or not targets:
        raise ValueError(f'lora.targets must be some of {", ".join(_TARGETS)}, got {targets}')
    return rank, alpha, tuple(targets)


def _adapt(block: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Replace the linear layers of a block, in place."""
    starts = tuple(_TARGETS[target] for target in targets)
    for name, layer in list(block.named_modules()):
        if isinstance(layer, nn.Linear) and name.startswith(starts):
            parent, _, own = name.rpartition('.')
            setattr(block.get_submodule(parent), own, LoRALinear(layer, rank, alpha))
