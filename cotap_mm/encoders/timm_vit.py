"""Encoder of vision transformers of timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD
from cotap_mm.ops.precision import at_least_float32

from .encoder import eval_mode
from .vit import BlocksEncoder


class TimmEncoder(BlocksEncoder):
    """A vision transformer of timm, with its own final norm and channel statistics.

    Args:
        model (nn.Module): ``timm.create_model(name, dynamic_img_size=True)``, or another
            VisionTransformer of timm.

    Raises:
        ValueError: If the model is not a ViT with square patches.
    """

    def __init__(self, model: nn.Module) -> None:
        size = getattr(getattr(model, 'patch_embed', None), 'patch_size', None)
        if not hasattr(model, 'blocks') or not hasattr(model, 'num_prefix_tokens') or not size:
            raise ValueError(
                f'{type(model).__name__} of timm is not a ViT of blocks over patches; '
                'choose a vit_*, deit_*, beit_* or eva_* model'
            )
        if size[0] != size[1]:
            raise ValueError(f'patches must be square, got {tuple(size)} pixels')
        super().__init__(model, size[0])
        self.num_prefix = model.num_prefix_tokens
        # Models from a constructor have no statistics, unlike those from create_model.
        config: dict = getattr(model, 'pretrained_cfg', None) or {}
        self.mean = config.get('mean') or IMAGENET_MEAN
        self.std = config.get('std') or IMAGENET_STD

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the model."""
        return self.module.blocks

    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        tokens = self.module.forward_features(self._renormalize(images))  # (B, prefix + N, d)
        patches = tokens[:, self.num_prefix :]
        cls = tokens[:, 0] if self._has_cls else patches.mean(dim=1)
        return cls, patches.transpose(1, 2).unflatten(2, self.grid(*images.shape[2:]))

    def _attend(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        if not self._has_cls:
            raise NotImplementedError(
                f'{type(self.module).__name__} has no CLS token, so it has no CLS attention; '
                'choose a model with a CLS token'
            )
        with eval_mode(self.module), _AttentionCalls(self.blocks[-1]) as attention:
            self._encode(images)
        try:
            return attention.of_first_token(self.num_prefix, grid[0] * grid[1])
        except ValueError as error:
            raise NotImplementedError(
                f'{type(self.module).__name__}: {error}; choose a model with one self-attention '
                'in each block'
            ) from error

    @property
    def _has_cls(self) -> bool:
        return getattr(self.module, 'cls_token', None) is not None

    def _renormalize(self, images: Tensor) -> Tensor:
        """Change the normalization from ImageNet's statistics to the model's own."""

        def column(values: Any) -> Tensor:
            return torch.tensor(values, device=images.device).view(3, 1, 1)

        pixels = images * column(IMAGENET_STD) + column(IMAGENET_MEAN)
        return (pixels - column(self.mean)) / column(self.std)


class _AttentionCalls(TorchFunctionMode):
    """Record what a block passes to PyTorch's scaled_dot_product_attention.

    The attention modules of timm differ in biases, norms, rotary and relative positions. Their
    queries and keys contain all of it when they reach this function.

    Args:
        block (nn.Module): Block to observe while this context is active.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block
        self._is_inside = False
        self._calls: list[tuple[Tensor, Tensor, Optional[Tensor]]] = []

    def __enter__(self) -> _AttentionCalls:
        self._handles = [
            self._block.register_forward_pre_hook(lambda *_: self._enter_block(True)),
            self._block.register_forward_hook(lambda *_: self._enter_block(False)),
        ]
        # timm calls the function only if this is set; the result is the same.
        self._unfused = [
            part for part in self._block.modules() if getattr(part, 'fused_attn', True) is not True
        ]
        for part in self._unfused:
            part.fused_attn = True  # type: ignore[assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        for part in self._unfused:
            part.fused_attn = False  # type: ignore[assignment]

    def _enter_block(self, entered: bool) -> None:
        self._is_inside = entered

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Optional[dict] = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._is_inside and func is F.scaled_dot_product_attention:
            self._calls.append((args[0], args[1], kwargs.get('attn_mask')))
        return func(*args, **kwargs)

    def of_first_token(self, num_prefix: int, num_patches: int) -> Tensor:
        """Compute the attention of the first token to the patches.

        Args:
            num_prefix (int): Tokens before the patches.
            num_patches (int): N, which come last.

        Returns:
            Tensor: Softmax weights, at least float32, (B, heads, N).

        Raises:
            ValueError: If the block has not exactly one self-attention of all tokens.
        """
        count = num_prefix + num_patches
        if [key.shape[-2] for _, key, _ in self._calls] != [count]:
            raise ValueError(
                f'its last block must have one self-attention of all {count} tokens, got '
                f'{len(self._calls)} calls of scaled_dot_product_attention'
            )
        query, key, mask = self._calls[0]  # (B, heads, T, c)
        logits = query[:, :, :1] @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if mask is not None:
            logits = logits + mask[..., :1, :]  # relative positions
        return at_least_float32(logits).softmax(dim=-1)[:, :, 0, num_prefix:]
