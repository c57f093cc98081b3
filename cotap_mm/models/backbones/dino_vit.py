"""The ViT that CoTAP starts from: DINO's, with the tokens around the last block at hand."""

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
    """MMPretrain's vision transformer the way DINO and iBOT weights expect it.

    It differs from its parent in three points: position embeddings are resized by
    DINO's scale factor, there is no final norm, and :meth:`forward_tokens` hands
    out the tokens entering and leaving the last block, which the object-aware
    filter and the template bank need.

    Source: DINO, https://arxiv.org/abs/2104.14294.

    Args:
        arch (str | dict): As in the parent; ``'deit-small'`` is the ViT-S and
            ``'deit-base'`` the ViT-B of the literature.
        patch_size (int): Pixels a patch. Defaults to 16.
        with_cp (bool | str): Recompute each block in the backward pass to save memory
            (activation checkpointing); ``'mlp'`` only the MLP in it, which saves most of
            it for a third of the operations. Defaults to False.
        fused_attention (bool): PyTorch's scaled_dot_product_attention, which never
            holds the weights of the attention. Same result. Defaults to True.
        channels_last (bool): Lay images out with the channels innermost for the patch
            embedding. Same result; which is faster depends on the device. Defaults to False.
        **kwargs: The parent's other arguments; ``final_norm`` is always False.
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
        """Initialise, then load ``PretrainedViT`` weights if ``init_cfg`` names them."""
        init_then_load(self, super().init_weights)

    @property
    def last_block(self) -> torch.nn.Module:
        """Block L, whose weights the object-aware filter shares."""
        return self.layers[-1]

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, 3, h, w) -> tokens entering the first block (B, 1+N, d) and the grid."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        tokens, grid = self.patch_embed(images)
        # shape[0], since len() would be fixed in a traced graph
        cls = self.cls_token.expand(tokens.shape[0], -1, -1).to(tokens)
        tokens = torch.cat([cls, tokens], dim=1)
        positions = resize_position_embedding(
            self.pos_embed, self.patch_resolution, grid, self.num_extra_tokens
        )
        return self.pre_norm(self.drop_after_pos(tokens + positions)), grid

    def run_block(self, block: torch.nn.Module, tokens: Tensor) -> Tensor:
        """One block, recomputed in the backward pass as ``with_cp`` says."""
        if not self.with_cp or not tokens.requires_grad:
            return block(tokens)
        if self.with_cp != 'mlp':
            return checkpoint(block, tokens, use_reentrant=False)
        tokens = tokens + block.attn(block.ln1(tokens))
        return checkpoint(
            lambda x: block.ffn(block.ln2(x), identity=x), tokens, use_reentrant=False
        )

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Tokens around the last block.

        Args:
            images (Tensor): Normalised images, shape (B, 3, h, w).

        Returns:
            tuple: Tokens entering the last block and tokens leaving it, CLS first,
            both (B, 1+N, d), and the patch grid (H, W).
        """
        entering, grid = self.forward_entering(images)
        return entering, self.run_block(self.last_block, entering), grid

    def forward_entering(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens entering the last block (B, 1+N, d) and the grid, of images (B, 3, h, w)."""
        tokens, grid = self.embed(images)
        for block in self.layers[:-1]:
            tokens = self.run_block(block, tokens)
        return tokens, grid

    def leaving_cls(self, entering: Tensor) -> Tensor:
        """CLS leaving the last block (B, d), alone, of tokens entering it (B, 1+N, d)."""
        return cls_through_block(entering, self.last_block)

    def cls_attention(self, entering: Tensor) -> Tensor:
        """Attention of CLS to the patches in the last block.

        Args:
            entering (Tensor): Tokens entering the last block, shape (B, 1+N, d).

        Returns:
            Tensor: Softmax weights without the one of CLS to itself, (B, heads, N).
        """
        attention = self.last_block.attn
        return cls_attention(
            self.last_block.ln1(entering), attention.qkv, attention.num_heads, self.num_extra_tokens
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As the parent's forward, with DINO's position embeddings."""
        tokens, grid = self.embed(images)
        outputs = []
        for index, block in enumerate(self.layers):
            tokens = self.run_block(block, tokens)
            if index in self.out_indices:
                outputs.append(self._format_output(tokens, grid))
        return tuple(outputs)
