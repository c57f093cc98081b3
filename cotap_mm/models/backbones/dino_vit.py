"""DINO's ViT, which exposes the tokens entering and leaving the last block."""

from __future__ import annotations

from typing import Union

import torch
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils.attention import scaled_dot_product_attention_pyimpl
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cotap_mm.ops import cls_attention, cls_through_block, resize_position_embedding
from cotap_mm.registry import MODELS
from cotap_mm.weights import init_then_load


@MODELS.register_module()
class DINOViT(VisionTransformer):
    """MMPretrain's vision transformer, as DINO and iBOT weights require it.

    It differs from its parent in three ways: position embeddings are resized by DINO's scale
    factor, there is no final norm, and :meth:`forward_tokens` returns the tokens entering and
    leaving the last block, which the object-aware filter and the template bank need.

    Source: DINO, https://arxiv.org/abs/2104.14294.

    Args:
        arch (str | dict): Architecture, see MMPretrain's ``VisionTransformer``. ``'deit-small'``
            is the ViT-S and ``'deit-base'`` the ViT-B of the literature. Defaults to
            ``'deit-small'``.
        patch_size (int): Patch size in pixels. Defaults to 16.
        with_cp (bool | str): Whether to recompute each block in the backward pass to save memory
            (activation checkpointing). ``'mlp'`` recomputes only the MLP of each block, which saves
            most of the memory for a third of the operations. Defaults to False.
        fused_attention (bool): Whether to use PyTorch's scaled_dot_product_attention, which never
            holds the attention weights. The result is the same. Defaults to True.
        channels_last (bool): Whether the patch embedding uses the channels-last memory format. The
            result is the same; which is faster depends on the device. Defaults to False.
        **kwargs (dict): Other arguments of the parent; ``final_norm`` is always False.
    """

    def __init__(
        self,
        arch='deit-small',
        patch_size: int = 16,
        with_cp: Union[bool, str] = False,
        fused_attention: bool = True,
        channels_last: bool = False,
        **kwargs,
    ) -> None:
        if with_cp not in (False, True, 'mlp'):
            raise ValueError(f"with_cp must be False, True or 'mlp', got {with_cp!r}")
        if kwargs.pop('final_norm', False):
            raise ValueError(
                'DINOViT has no final norm: the filter works on the raw output of '
                'the last block; remove final_norm=True'
            )
        kwargs.setdefault('out_type', 'raw')
        super().__init__(arch=arch, patch_size=patch_size, final_norm=False, **kwargs)
        self.patch_size = patch_size
        self.with_cp = with_cp
        self.channels_last = channels_last
        for block in self.layers:
            if not fused_attention:
                block.attn.scaled_dot_product_attention = scaled_dot_product_attention_pyimpl

    def init_weights(self) -> None:
        """Initialize, then load ``PretrainedViT`` weights if ``init_cfg`` names them."""
        init_then_load(self, super().init_weights)

    @property
    def last_block(self) -> torch.nn.Module:
        """Block L, whose weights the object-aware filter shares."""
        return self.layers[-1]

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed images (B, 3, h, w); returns tokens (B, 1+N, d) and the grid (H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        tokens, grid = self.patch_embed(images)
        # shape[0], since tracing would fix the value of len()
        cls = self.cls_token.expand(tokens.shape[0], -1, -1).to(tokens)
        tokens = torch.cat([cls, tokens], dim=1)
        positions = resize_position_embedding(
            self.pos_embed, self.patch_resolution, grid, self.num_extra_tokens
        )
        return self.pre_norm(self.drop_after_pos(tokens + positions)), grid

    def run_block(self, block: torch.nn.Module, tokens: Tensor) -> Tensor:
        """Run a block, with activation checkpointing if ``with_cp`` is set."""
        if not self.with_cp or not tokens.requires_grad:
            return block(tokens)
        if self.with_cp != 'mlp':
            return checkpoint(block, tokens, use_reentrant=False)
        tokens = tokens + block.attn(block.ln1(tokens))
        return checkpoint(
            lambda x: block.ffn(block.ln2(x), identity=x), tokens, use_reentrant=False
        )

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Compute the tokens entering and leaving the last block.

        Args:
            images (Tensor): Normalized images, shape (B, 3, h, w).

        Returns:
            tuple[Tensor, Tensor, tuple[int, int]]: Tokens entering and tokens leaving the last
            block, CLS first, (B, 1+N, d) each, and the patch grid (H, W).
        """
        entering, grid = self.forward_entering(images)
        return entering, self.run_block(self.last_block, entering), grid

    def forward_entering(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Run all blocks but the last; returns tokens (B, 1+N, d) and the grid (H, W)."""
        tokens, grid = self.embed(images)
        for block in self.layers[:-1]:
            tokens = self.run_block(block, tokens)
        return tokens, grid

    def leaving_cls(self, entering: Tensor) -> Tensor:
        """Run the last block for CLS only, (B, 1+N, d) -> (B, d)."""
        return cls_through_block(entering, self.last_block)

    def cls_attention(self, entering: Tensor) -> Tensor:
        """Compute the attention of CLS to the patches in the last block.

        Args:
            entering (Tensor): Tokens entering the last block, shape (B, 1+N, d).

        Returns:
            Tensor: Softmax weights without that of CLS to itself, (B, heads, N).
        """
        attention = self.last_block.attn
        return cls_attention(
            self.last_block.ln1(entering), attention.qkv, attention.num_heads, self.num_extra_tokens
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs at ``out_indices``, with DINO's position embeddings."""
        tokens, grid = self.embed(images)
        outputs = []
        for index, block in enumerate(self.layers):
            tokens = self.run_block(block, tokens)
            if index in self.out_indices:
                outputs.append(self._format_output(tokens, grid))
        return tuple(outputs)
