"""The object-aware filter: tokens re-expressed through learnable object prototypes."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from cotap_mm.ops import at_least_float32, patch_tokens, qkv_parameters
from cotap_mm.registry import MODELS
from cotap_mm.rules import FLAG, check_arguments, whole

_PROTOTYPES = whole(1)._replace(wanted='an integer >= 1 (NoFilter has none)')


@MODELS.register_module()
class ObjectAwareFilter(BaseModule):
    """Re-express tokens through object prototypes by cross-attention.

    Each prototype is a small spatial template of 3 x 3 tokens. A patch attends to prototypes
    according to how well its neighborhood matches them, CLS according to their mean. The output of
    the attention goes through projection and MLP of the last block. Rotary positions are not
    applied: prototypes have no position, so rotating the queries alone would make the match depend
    on where a patch is. The filter **shares** the
    norms, qkv, projection and MLP of that block: the block is an argument of each call and not a
    part of this module, so a state dict holds its weights once.

    In pre-training the forward pass uses detached prototypes, so only the prototype entropy loss
    moves them.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        in_channels (int): d, width of the tokens.
        num_prototypes (int): M, number of prototypes. Defaults to 64.
        detach_prototypes (bool): Whether to stop the gradient of the forward pass at the
            prototypes. Defaults to True, as in pre-training.
        init_cfg (dict, optional): See MMEngine's ``BaseModule``. Defaults to None.
    """

    @check_arguments(in_channels=whole(1), num_prototypes=_PROTOTYPES, detach_prototypes=FLAG)
    def __init__(
        self,
        in_channels: int,
        num_prototypes: int = 64,
        detach_prototypes: bool = True,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = 2 * in_channels
        self.num_prototypes = num_prototypes
        self.detach_prototypes = detach_prototypes
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, in_channels, 3, 3))
        self.norm_prototypes = nn.LayerNorm(in_channels, eps=1e-6)
        self.norm_patch = nn.LayerNorm(self.out_channels, eps=1e-6)
        self.norm_cls = nn.LayerNorm(self.out_channels, eps=1e-6)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], block: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Filter all tokens.

        Args:
            tokens (Tensor): Output of the last block, CLS first, N patches last, (B, 1+R+N, d).
            grid (tuple[int, int]): H, W with H*W = N.
            block (nn.Module): The ViT's last block.

        Returns:
            tuple[Tensor, Tensor]: CLS (B, 2d) and patches (B, N, 2d).
        """
        patches = self.filter_patches(patch_tokens(tokens, grid), grid, block)
        return self.filter_cls(tokens[:, 0], block), patches

    def filter_patches(self, patches: Tensor, grid: tuple[int, int], block: nn.Module) -> Tensor:
        """Filter patches, (B, N, d) -> (B, N, 2d)."""
        key, value = self._keys_and_values(block)
        attention = self._patch_attention(patches, grid, block, key)  # (B, heads, N, M)
        return self.norm_patch(self._read(patches, attention, value, block))

    def filter_cls(self, cls_token: Tensor, block: nn.Module) -> Tensor:
        """Filter CLS tokens, (B, d) -> (B, 2d)."""
        key, value = self._keys_and_values(block)
        query = self._query(cls_token[:, None], block)  # (B, 1, d)
        heads = block.attn.num_heads
        query, key = (x.unflatten(-1, (heads, -1)) for x in (query, key.mean(dim=1)))
        logits = torch.einsum('bnhc,mhc->bhnm', query, key)
        attention = self._softmax(logits).to(value.dtype)  # (B, heads, 1, M)
        return self.norm_cls(self._read(cls_token[:, None], attention, value, block))[:, 0]

    def attention(self, tokens: Tensor, grid: tuple[int, int], block: nn.Module) -> Tensor:
        """Compute the attention of patches to prototypes, for visualization.

        Args:
            tokens (Tensor): Output of the last block, CLS first, N patches last, (B, 1+R+N, d).
            grid (tuple[int, int]): H, W.
            block (nn.Module): The ViT's last block.

        Returns:
            Tensor: Weights over prototypes, which sum to 1, shape (B, heads, N, M).
        """
        key, _ = self._keys_and_values(block)
        return self._patch_attention(patch_tokens(tokens, grid), grid, block, key)

    def _query(self, tokens: Tensor, block: nn.Module) -> Tensor:
        width = self.in_channels
        weight, bias = qkv_parameters(block.attn.qkv)
        bias = None if bias is None else bias[:width]
        return _normed_heads(F.linear(block.ln1(tokens), weight[:width], bias), block, 'q_norm')

    def _keys_and_values(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """Compute the key of each cell (M, 9, d) and the value of each prototype (M, d)."""
        width = self.in_channels
        weight, bias = qkv_parameters(block.attn.qkv)
        prototypes = self.prototypes.detach() if self.detach_prototypes else self.prototypes
        # A copy, since k-means may overwrite the prototypes between forward and backward pass.
        cells = prototypes.flatten(2).transpose(1, 2).contiguous()  # (M, 9, d)
        bias = None if bias is None else bias[width:]
        both = F.linear(self.norm_prototypes(cells), weight[width:], bias)
        key, value = both.split(width, dim=-1)
        return _normed_heads(key, block, 'k_norm'), value.mean(dim=1)

    def _patch_attention(
        self, patches: Tensor, grid: tuple[int, int], block: nn.Module, key: Tensor
    ) -> Tensor:
        heads = block.attn.num_heads
        query = self._query(patches, block).transpose(1, 2).unflatten(2, grid)  # (B, d, H, W)
        # A 3 x 3 correlation per head (group) and prototype.
        templates = key.unflatten(2, (heads, -1)).permute(2, 0, 3, 1)  # (heads, M, d/heads, 9)
        templates = templates.reshape(-1, templates.shape[2], 3, 3).to(query.dtype)
        logits = F.conv2d(query, templates, padding=1, groups=heads)  # (B, heads*M, H, W)
        logits = logits.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
        return self._softmax(logits).to(query.dtype)  # (B, heads, N, M)

    def _softmax(self, logits: Tensor) -> Tensor:
        # The method scales by the number of prototypes, not by the width of a head.
        precise = at_least_float32(logits)
        return (precise * self.num_prototypes**-0.5).softmax(dim=-1)

    @staticmethod
    def _read(tokens: Tensor, attention: Tensor, value: Tensor, block: nn.Module) -> Tensor:
        """Concatenate tokens x (B, N, d) and filtered tokens x' to [x ; x'] (B, N, 2d)."""
        attn = block.attn
        value = value.unflatten(1, (attn.num_heads, -1)).to(attention.dtype)  # (M, heads, d/heads)
        read = torch.einsum('bhnm,mhc->bnhc', attention, value).flatten(2)  # (B, N, d)
        read = attn.out_drop(attn.gamma1(attn.proj_drop(attn.proj(read))))
        filtered = tokens + read
        return torch.cat([tokens, _add_mlp(filtered, block)], dim=-1)


def _add_mlp(tokens: Tensor, block: nn.Module) -> Tensor:
    """Run the second half of a block; one of :class:`.DINOViT` saves less in it."""
    if hasattr(block, 'add_mlp'):
        return block.add_mlp(tokens)
    return block.ffn(block.ln2(tokens), identity=tokens)


def _normed_heads(x: Tensor, block: nn.Module, name: str) -> Tensor:
    """Apply the norm of the queries or keys of a head, if the block has one: (..., d)."""
    norm = getattr(block.attn, name, None)
    return x if norm is None else norm(x.unflatten(-1, (block.attn.num_heads, -1))).flatten(-2)
