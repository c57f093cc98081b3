"""Transformer blocks with rotary positions, gated MLPs, and norms of queries and keys."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import MultiheadAttention, SwiGLUFFN
from torch import Tensor, nn

from cotap_mm.models.lean_saving import save_source
from cotap_mm.ops import Rotation, rotate_patches


class KeyUnbiasedLinear(nn.Linear):
    """Joint projection to query, key and value, whose keys have no bias.

    With rotary positions, a bias of the keys would change the attention, and DINOv3 has none. The
    middle third of ``bias`` is zero, is not used, and gets no gradient.

    Args:
        plain (nn.Linear): Projection d -> 3 d with a bias, whose parameters are taken over.
    """

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        with torch.no_grad():
            self.bias.chunk(3)[1].zero_()

    @property
    def effective_bias(self) -> Tensor:
        """Bias with zeros for the keys, shape (3 d,)."""
        query, key, value = self.bias.chunk(3)
        return torch.cat([query, torch.zeros_like(key), value])

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (..., d) to (..., 3 d)."""
        return F.linear(tokens, self.weight, self.effective_bias)


class Attention(MultiheadAttention):
    """MMPretrain's self-attention with optional rotary positions and norms of queries and keys.

    Args:
        plain (MultiheadAttention): Layer whose parts are taken over.
        qk_norm (dict, optional): Arguments of the layer norms of the queries and keys of a head,
            such as ``eps``. Defaults to None (no norms).
        key_bias (bool): Whether the keys have a bias, if query and value do. Defaults to True.
    """

    def __init__(
        self,
        plain: MultiheadAttention,
        qk_norm: Optional[dict[str, Any]] = None,
        key_bias: bool = True,
    ) -> None:
        BaseModule.__init__(self)
        self.embed_dims, self.num_heads = plain.embed_dims, plain.num_heads
        self.head_dims, self.attn_drop = plain.head_dims, plain.attn_drop
        self.scaled_dot_product_attention = plain.scaled_dot_product_attention
        has_bias = plain.qkv.bias is not None
        self.qkv = plain.qkv if key_bias or not has_bias else KeyUnbiasedLinear(plain.qkv)
        self.proj, self.proj_drop = plain.proj, plain.proj_drop
        self.out_drop, self.gamma1 = plain.out_drop, plain.gamma1
        self.q_norm = self.k_norm = None
        if qk_norm is not None:
            self.q_norm = nn.LayerNorm(self.head_dims, **qk_norm)
            self.k_norm = nn.LayerNorm(self.head_dims, **qk_norm)

    def forward(
        self,
        x: Tensor,
        rotation: Optional[Rotation] = None,
        norm: Optional[Callable[[Tensor], Tensor]] = None,
    ) -> Tensor:
        """Attend: tokens (B, P + N, d), N patches last, to tokens of the same shape.

        A ``norm`` is applied to the tokens first, and again in the backward pass.
        """
        qkv = self.qkv(x) if norm is None else save_source(norm, x, self.qkv)
        qkv = qkv.unflatten(2, (3, self.num_heads, self.head_dims))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, P + N, d/heads) each
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotation is not None:
            query, key = rotate_patches(query, rotation), rotate_patches(key, rotation)
        read = self.scaled_dot_product_attention(
            query, key, value, dropout_p=self.attn_drop if self.training else 0.0
        )
        read = self.proj(read.transpose(1, 2).flatten(2))
        return self.out_drop(self.gamma1(self.proj_drop(read)))


class MLP(FFN):
    """MMCV's linear layer, activation and linear layer, which can save less.

    Args:
        plain (FFN): Layers that are taken over.
    """

    def __init__(self, plain: FFN) -> None:
        BaseModule.__init__(self)
        self.embed_dims, self.feedforward_channels = plain.embed_dims, plain.feedforward_channels
        self.num_fcs, self.add_identity = plain.num_fcs, plain.add_identity
        self.layers, self.dropout_layer = plain.layers, plain.dropout_layer
        self.gamma2 = plain.gamma2

    def forward_lean(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Compute ``forward(norm(x), identity=x)``; save neither norm nor activation of it."""
        (first, act, drop), second, drop_again = self.layers
        if self.training and drop.p:
            return self(norm(x), identity=x)  # what is dropped is random
        out = save_source(act, save_source(norm, x, first), second)
        return x + self.dropout_layer(self.gamma2(drop_again(out)))


class Block(TransformerEncoderLayer):
    """MMPretrain's transformer block with our attention, and an optional gated MLP.

    Attributes:
        saves_less (bool): Whether the backward pass applies norms and the activation again, which
            are cheap, instead of keeping their results. Not useful if the whole block is
            recomputed.

    Args:
        plain (TransformerEncoderLayer): Block whose parts are taken over.
        gated (int, optional): Hidden channels of a gated MLP (SwiGLU) that replaces the MLP.
            Defaults to None (not replaced).
        **attention: Options of :class:`Attention`.
    """

    def __init__(
        self, plain: TransformerEncoderLayer, gated: Optional[int] = None, **attention: Any
    ) -> None:
        BaseModule.__init__(self)
        self.embed_dims = plain.embed_dims
        self.ln1 = plain.ln1
        self.attn = Attention(plain.attn, **attention)
        self.ln2 = plain.ln2
        self.ffn = MLP(plain.ffn) if gated is None else _gated(plain, gated)
        self.saves_less = True
        for layer in (self.attn.out_drop, self.ffn.dropout_layer):
            if hasattr(layer, 'drop_prob'):  # NumPy's numbers break the graph of torch.compile
                layer.drop_prob = float(layer.drop_prob)

    def forward(self, x: Tensor, rotation: Optional[Rotation] = None) -> Tensor:
        """Transform tokens (B, P + N, d); patches are rotated by their position if it is given."""
        if not self.saves_less:
            return self.add_mlp(x + self.attn(self.ln1(x), rotation))
        return self.add_mlp(x + self.attn(x, rotation, self.ln1))

    def add_mlp(self, x: Tensor) -> Tensor:
        """Run the second half of the block, the MLP of normed tokens and its residual, (..., d)."""
        if self.saves_less and isinstance(self.ffn, MLP):
            return self.ffn.forward_lean(x, self.ln2)
        return self.ffn(self.ln2(x), identity=x)


def _gated(plain: TransformerEncoderLayer, hidden: int) -> SwiGLUFFN:
    """Build a gated MLP with the layer scale and the drop path of the plain one."""
    mlp = SwiGLUFFN(plain.embed_dims, hidden, layer_scale_init_value=1.0)
    mlp.gamma2, mlp.dropout_layer = plain.ffn.gamma2, plain.ffn.dropout_layer
    return mlp
