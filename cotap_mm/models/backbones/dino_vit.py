"""ViT of DINO, DINOv2 and DINOv3, which exposes the tokens entering and leaving its last block."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils.attention import scaled_dot_product_attention_pyimpl
from torch import Tensor, nn

from cotap_mm.ops import (
    Rotation,
    cls_attention,
    cls_through_block,
    patch_tokens,
    resize_position_embedding,
)
from cotap_mm.ops.position import check_rule
from cotap_mm.registry import MODELS
from cotap_mm.rules import FLAG, SIDES, check_arguments, number, whole
from cotap_mm.weights import init_then_load
from cotap_mm.weights.zoo import REQUIRED, architecture

from .blocks import Block
from .checkpointing import check_mode, run_block
from .rotary import RotaryPositions

_MOST_REGISTERS = 16


@MODELS.register_module()
class DINOViT(VisionTransformer):
    """MMPretrain's vision transformer, as weights of DINO, iBOT, DINOv2 and DINOv3 require it.

    Compared with its parent, it supports registers, rotary position embeddings and gated MLPs,
    resizes position embeddings with the rule of the model family, and has no final norm.
    :meth:`forward_tokens` returns the tokens entering and leaving the last block, which the
    object-aware filter and the template bank need.

    The token sequence is CLS, R registers, N patches. Registers participate in attention but are
    dropped from every output.

    Source: DINO, https://arxiv.org/abs/2104.14294; registers: https://arxiv.org/abs/2309.16588;
    DINOv3, https://arxiv.org/abs/2508.10104.

    Args:
        arch (str | dict): A name: ``'deit-small'`` is the ViT-S and ``'deit-base'`` the ViT-B of
            the literature, others are ``'dinov2-reg-small'``, ``'dinov3-base'`` (see
            :func:`cotap_mm.weights.zoo.architectures`); or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads``, ``feedforward_channels``, and optionally
            ``ffn`` (``'mlp'`` or ``'swiglu'``), ``layer_scale``, ``norm_eps``, ``qk_norm``,
            ``key_bias``, ``num_registers``, ``rope`` and ``pos_resize``. Defaults to
            ``'deit-small'``.
        patch_size (int): Patch size in pixels. Defaults to 16.
        with_cp (bool | str): Whether to recompute each block in the backward pass to save memory
            (activation checkpointing). ``'mlp'`` recomputes only the MLP of each block, which saves
            most of the memory for a third of the operations. ``'products'`` (PyTorch >= 2.4)
            keeps the results of matrix products and attention, and recomputes the rest: norms,
            activations, sums. Defaults to False.
        fused_attention (bool): Whether to use PyTorch's scaled_dot_product_attention, which never
            holds the attention weights. The result is the same. Defaults to True.
        channels_last (bool): Whether the patch embedding uses the channels-last memory format. The
            result is the same; which is faster depends on the device. Defaults to False.
        num_registers (int, optional): R, 0 to 16. Defaults to that of ``arch``.
        rope (dict, optional): Options of :class:`RotaryPositions`, in place of position
            embeddings. Defaults to that of ``arch``.
        pos_resize (str, optional): How position embeddings are resized to other image sizes, see
            :data:`cotap_mm.ops.position.RESIZE_RULES`. Defaults to that of ``arch``.
        **kwargs: Other arguments of the parent; ``final_norm`` is always False.

    Raises:
        ValueError: If an argument is invalid.
    """

    layers: ModuleList

    @check_arguments(
        patch_size=whole(1),
        fused_attention=FLAG,
        channels_last=FLAG,
        img_size=SIDES,
        in_channels=whole(1),
        drop_rate=number(0, 1, below=True),
        drop_path_rate=number(0, 1, below=True),
        frozen_stages=whole(-1),
    )
    def __init__(
        self,
        arch='deit-small',
        patch_size: int = 16,
        with_cp: Union[bool, str] = False,
        fused_attention: bool = True,
        channels_last: bool = False,
        num_registers: Optional[int] = None,
        rope: Optional[dict] = None,
        pos_resize: Optional[str] = None,
        **kwargs: Any,
    ) -> None:
        check_mode(with_cp)
        if kwargs.pop('final_norm', False):
            raise ValueError(
                'DINOViT has no final norm: the filter works on the raw output of '
                'the last block; remove final_norm=True'
            )
        full = architecture(arch)
        registers = full['num_registers'] if num_registers is None else num_registers
        rotary = full['rope'] if rope is None else rope
        self.pos_resize = full['pos_resize'] if pos_resize is None else pos_resize
        _check_registers(registers)
        check_rule(self.pos_resize)
        kwargs.setdefault('out_type', 'raw')
        kwargs.setdefault('norm_cfg', dict(type='LN', eps=full['norm_eps']))
        if full['layer_scale']:
            kwargs.setdefault('layer_scale_init_value', 1e-5)
        sizes = {key: full[key] for key in REQUIRED}
        frozen_stages = kwargs.pop('frozen_stages', -1)  # the parent would freeze its own blocks
        super().__init__(arch=sizes, patch_size=patch_size, final_norm=False, **kwargs)
        self.patch_size = patch_size
        self.channels_last = channels_last
        options: dict[str, Any] = dict(
            gated=full['feedforward_channels'] if full['ffn'] == 'swiglu' else None,
            qk_norm=dict(eps=full['norm_eps']) if full['qk_norm'] else None,
            key_bias=rotary is None if full['key_bias'] is None else full['key_bias'],
        )
        self.layers = ModuleList([Block(plain, **options) for plain in self.layers])
        self.with_cp = with_cp
        for block in self.layers:
            if not fused_attention:
                block.attn.scaled_dot_product_attention = scaled_dot_product_attention_pyimpl
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, registers, self.embed_dims)) if registers else None
        )
        self.rope = None
        if rotary is not None:
            self.pos_embed = None
            self.rope = _rotary(rotary, self.layers[0].attn.head_dims)
        self._check_stages(frozen_stages)
        self.frozen_stages = frozen_stages
        if frozen_stages > 0:
            self._freeze_stages()

    @property
    def with_cp(self) -> Union[bool, str]:
        """What the backward pass recomputes: False, True or ``'mlp'``."""
        return self._with_cp

    @with_cp.setter
    def with_cp(self, value: Union[bool, str]) -> None:
        self._with_cp = value
        for block in self.layers:
            block.saves_less = not value

    @property
    def num_registers(self) -> int:
        """R, number of registers."""
        return 0 if self.register_tokens is None else self.register_tokens.shape[1]

    @property
    def num_prefix(self) -> int:
        """Number of tokens before the patches: CLS and registers."""
        return 1 + self.num_registers

    def init_weights(self) -> None:
        """Initialize, then load ``PretrainedViT`` weights if ``init_cfg`` names them."""
        init_then_load(self, self._init_all)

    def _init_all(self) -> None:
        super().init_weights()
        if self.register_tokens is not None:
            trunc_normal_(self.register_tokens, std=0.02)

    def train(self, mode: bool = True) -> DINOViT:
        """Set the mode; frozen stages stay in eval mode."""
        super().train(mode)
        if self.frozen_stages > 0:
            self._freeze_stages()
        return self

    @property
    def last_block(self) -> nn.Module:
        """Block L, whose weights the object-aware filter shares."""
        return self.layers[-1]

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed images (B, 3, h, w); returns tokens (B, 1+R+N, d) and the grid (H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        patches, grid = self.patch_embed(images)
        # shape[0], since tracing would fix the value of len()
        cls = self.cls_token.expand(patches.shape[0], -1, -1).to(patches)
        tokens = torch.cat([cls, patches], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + resize_position_embedding(
                self.pos_embed,
                self.patch_resolution,
                grid,
                self.num_extra_tokens,
                self.pos_resize,
            )
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(patches.shape[0], -1, -1).to(tokens)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        return self.pre_norm(self.drop_after_pos(tokens)), grid

    def rotation(self, grid: Optional[tuple[int, int]]) -> Optional[Rotation]:
        """Compute the rotary positions of a grid (H, W); None if the network has none."""
        if self.rope is None:
            return None
        if grid is None:
            raise ValueError('a network with rope needs the grid (H, W) of its tokens')
        return self.rope(grid)

    def run_block(
        self, block: nn.Module, tokens: Tensor, rotation: Optional[Rotation] = None
    ) -> Tensor:
        """Run a block, with activation checkpointing if ``with_cp`` is set."""
        return run_block(self.with_cp, block, tokens, rotation)

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Compute the tokens entering and leaving the last block.

        Args:
            images (Tensor): Normalized images, shape (B, 3, h, w).

        Returns:
            tuple[Tensor, Tensor, tuple[int, int]]: Tokens entering and tokens leaving the last
            block, CLS first, registers next, (B, 1+R+N, d) each, and the patch grid (H, W).
        """
        entering, grid = self.forward_entering(images)
        return entering, self.run_last(entering, grid), grid

    def forward_entering(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Run all blocks but the last; returns tokens (B, 1+R+N, d) and the grid (H, W)."""
        tokens, grid = self.embed(images)
        rotation = self.rotation(grid)
        for block in list(self.layers)[:-1]:  # a slice of a ModuleList breaks the graph
            tokens = self.run_block(block, tokens, rotation)
        return tokens, grid

    def run_last(self, entering: Tensor, grid: Optional[tuple[int, int]] = None) -> Tensor:
        """Run the last block; only a network with rope needs the grid (H, W)."""
        return self.run_block(self.last_block, entering, self.rotation(grid))

    def leaving_cls(self, entering: Tensor, grid: Optional[tuple[int, int]] = None) -> Tensor:
        """Run the last block for CLS only, (B, 1+R+N, d) -> (B, d)."""
        return cls_through_block(entering, self.last_block, self.rotation(grid))

    def cls_attention(self, entering: Tensor, grid: Optional[tuple[int, int]] = None) -> Tensor:
        """Compute the attention of CLS to the patches in the last block.

        Args:
            entering (Tensor): Tokens entering the last block, shape (B, 1+R+N, d).
            grid (tuple, optional): H, W; only a network with rope needs it.

        Returns:
            Tensor: Softmax weights without those of CLS to itself and to registers,
            (B, heads, N).
        """
        attention = self.last_block.attn
        return cls_attention(
            self.last_block.ln1(entering),
            attention.qkv,
            attention.num_heads,
            self.num_prefix,
            attention.q_norm,
            attention.k_norm,
            self.rotation(grid),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs at ``out_indices``, without registers."""
        tokens, grid = self.embed(images)
        rotation = self.rotation(grid)
        outputs = []
        for index, block in enumerate(self.layers):
            tokens = self.run_block(block, tokens, rotation)
            if index in self.out_indices:
                outputs.append(self._format_output(tokens, grid))
        return tuple(outputs)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of a parameter for layer-wise learning rates, and the number of depths.

        Embeddings and registers have depth 0, block i has depth i + 1, and parameters that do not
        start with ``prefix`` (heads) have the largest depth.
        """
        if param_name.startswith((prefix + 'pre_norm.', prefix + 'register_tokens')):
            return 0, self.num_layers + 2  # the parent treats them as a head
        return super().get_layer_depth(param_name, prefix)

    def _format_output(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.register_tokens is not None:
            tokens = torch.cat([tokens[:, :1], patch_tokens(tokens, grid)], dim=1)
        return super()._format_output(tokens, grid)

    def _check_stages(self, count: int) -> None:
        if count > self.num_layers:
            raise ValueError(
                f'frozen_stages must be at most {self.num_layers}, the number of blocks, '
                f'got {count}'
            )

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.register_tokens is not None:
            self.register_tokens.requires_grad_(False)


def _check_registers(count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MOST_REGISTERS:
        raise ValueError(f'num_registers must be 0 to {_MOST_REGISTERS}, got {count!r}')


def _rotary(options: Any, head_dims: int) -> RotaryPositions:
    """Build the rotary positions.

    Raises:
        ValueError: If an option is unknown or wrong.
    """
    if not isinstance(options, dict) or not set(options) <= {'theta'}:
        shown = sorted(options) if isinstance(options, dict) else repr(options)
        raise ValueError(
            'rope must be a dict with the option theta (base of the periods), e.g. '
            f'rope=dict(theta=100.0), got {shown}'
        )
    return RotaryPositions(head_dims, **options)
