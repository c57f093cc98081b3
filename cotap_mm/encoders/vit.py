"""Encoders of vision transformers: CoTAP algorithms, MMPretrain's and timm's ViTs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from cotap_mm.deprecation import renamed_argument
from cotap_mm.models import DINOViT
from cotap_mm.ops import cls_attention, patch_tokens
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .encoder import Encoder, eval_mode

NETWORKS = ('student', 'teacher')
OUTPUTS = ('filter', 'backbone')


class BlocksEncoder(Encoder):
    """A ViT whose blocks can be observed.

    Attributes:
        num_prefix (int): Number of tokens before the patches: CLS and registers.
    """

    num_prefix = 1

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """Transformer blocks in order; input and output are tokens (B, num_prefix + N, d)."""

    @torch.no_grad()
    def layers(self, images: Tensor) -> list[Tensor]:
        """Compute the patch map after each block; see :meth:`Encoder.layers`."""
        images = self._fit(images)
        grid = self.grid(*images.shape[2:])
        with self._watch() as (_, leaving):
            self._encode(images)
        return [
            tokens[:, self.num_prefix :].float().transpose(1, 2).unflatten(2, grid)
            for tokens in leaving
        ]

    @torch.no_grad()
    def cls_attention(self, images: Tensor) -> Tensor:
        """Compute the attention of CLS in the last block; see :meth:`Encoder.cls_attention`."""
        images = self._fit(images)
        with self._watch() as (entering, _):
            self._encode(images)
        grid = self.grid(*images.shape[2:])
        return self._attend(entering[-1], grid).unflatten(2, grid)

    @contextmanager
    def _watch(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Switch to eval mode, and collect the tokens that enter and leave each block."""
        entering: list[Tensor] = []
        leaving: list[Tensor] = []

        def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            entering.append(inputs[0])
            leaving.append(output)

        handles = [block.register_forward_hook(record) for block in self.blocks]
        try:
            with eval_mode(self.module):
                yield entering, leaving
        finally:
            for handle in handles:
                handle.remove()

    @abstractmethod
    def _attend(self, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the attention of CLS (B, heads, N) from the tokens entering the last block."""


class CoTAPEncoder(BlocksEncoder):
    """Student or teacher of a :class:`~cotap_mm.models.CoTAP` algorithm.

    Args:
        algorithm (CoTAP): Has ``encode(images, network, output)``, ``network(name)`` and
            ``patch_size``.
        network (str): ``'student'`` (published results are the student's) or ``'teacher'``.
            Defaults to ``'student'``.
        output (str): ``'filter'`` (object-aware filter, C = 2d) or ``'backbone'`` (the
            plain last block, C = d). Defaults to ``'filter'``.

    Raises:
        ValueError: If network or output has another value.
    """

    @renamed_argument('branch', 'network')
    def __init__(
        self, algorithm: nn.Module, network: str = 'student', output: str = 'filter'
    ) -> None:
        super().__init__(algorithm, algorithm.patch_size)
        self.network = _one_of('network', network, NETWORKS)
        self.output = _one_of('output', output, OUTPUTS)

    @property
    def num_prefix(self) -> int:  # type: ignore[override]
        """Number of tokens before the patches: CLS and registers."""
        return self.module.network(self.network).backbone.num_prefix

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the chosen network."""
        return self.module.network(self.network).backbone.layers

    @torch.no_grad()
    def prototype_attention(self, images: Tensor) -> Tensor:
        """Compute the attention to the prototypes; see :meth:`Encoder.prototype_attention`."""
        if not self.module.neck.num_prototypes:
            return super().prototype_attention(images)
        with eval_mode(self.module):
            return self.module.prototype_attention(self._fit(images), self.network).float()

    @torch.no_grad()
    def foreground(self, images: Tensor, mass: Optional[float] = None) -> Tensor:
        """Compute the foreground mask of pre-training; see :meth:`Encoder.foreground`.

        Without ``mass``, it is that of the algorithm's ``foreground`` option.
        """
        if mass is not None:
            return super().foreground(images, mass)
        with eval_mode(self.module):
            return self.module.foreground(self._fit(images), self.network)

    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        return self.module.encode(images, self.network, self.output)

    def _attend(self, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.module.network(self.network).backbone.cls_attention(entering, grid)


class ViTEncoder(BlocksEncoder):
    """A ``mmpretrain.VisionTransformer``, our ``DINOViT``, or ``CoTAPViT`` with its filter.

    Args:
        backbone (nn.Module): Returns raw tokens (``out_type='raw'``), CLS token first.
        final_norm (nn.Module, optional): Applied to the tokens, for networks whose features
            are normalized but that are built without the norm. Defaults to None.

    Raises:
        ValueError: If the backbone does not return raw tokens, or its patches are not square.
    """

    def __init__(self, backbone: nn.Module, final_norm: Optional[nn.Module] = None) -> None:
        if backbone.out_type != 'raw':
            raise ValueError(
                f"the backbone must have out_type='raw', got {backbone.out_type!r}; "
                'both the CLS token and the patch map are needed'
            )
        # MMPretrain stores the patch size only as the stride of the patch embedding.
        stride = backbone.patch_embed.projection.stride
        if stride[0] != stride[1]:
            raise ValueError(f'patches must be square, got {tuple(stride)} pixels')
        super().__init__(backbone, stride[0])
        self.final_norm = final_norm
        # Of the tokens between blocks; the output of our networks has no registers.
        self.num_prefix = getattr(backbone, 'num_prefix', backbone.num_extra_tokens)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Blocks of the backbone."""
        return self.module.layers

    @torch.no_grad()
    def prototype_attention(self, images: Tensor) -> Tensor:
        """Compute the attention to the prototypes; see :meth:`Encoder.prototype_attention`."""
        neck = getattr(self.module, 'neck', None)
        if neck is None:
            return super().prototype_attention(images)
        images = self._fit(images)
        grid = self.grid(*images.shape[2:])
        with eval_mode(self.module):
            _, leaving, grid = self.module.forward_tokens(images)
            return neck.attention(leaving, grid, self.blocks[-1]).unflatten(2, grid).float()

    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        tokens = self.module(images)[-1]  # (B, extra + N, C)
        tokens = tokens if self.final_norm is None else self.final_norm(tokens)
        grid = self.grid(*images.shape[2:])
        return tokens[:, 0], patch_tokens(tokens, grid).transpose(1, 2).unflatten(2, grid)

    def _attend(self, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        if isinstance(self.module, DINOViT):
            return self.module.cls_attention(entering, grid)
        block = self.blocks[-1]
        return cls_attention(
            block.ln1(entering), block.attn.qkv, block.attn.num_heads, self.num_prefix
        )


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

    def _attend(self, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        block = self.blocks[-1]
        attention = block.attn
        plain = isinstance(getattr(attention, 'qkv', None), nn.Linear)
        if not self._has_cls or not plain or getattr(self.module, 'rope', None) is not None:
            raise NotImplementedError(
                f'{type(self.module).__name__} has no CLS token or no plain joint attention, '
                'so the attention of CLS is unavailable'
            )
        return cls_attention(
            block.norm1(entering),
            attention.qkv,
            attention.num_heads,
            self.num_prefix,
            attention.q_norm,
            attention.k_norm,
        )

    @property
    def _has_cls(self) -> bool:
        return getattr(self.module, 'cls_token', None) is not None

    def _renormalize(self, images: Tensor) -> Tensor:
        """Change the normalization from ImageNet's statistics to the model's own."""

        def column(values: Any) -> Tensor:
            return torch.tensor(values, device=images.device).view(3, 1, 1)

        pixels = images * column(IMAGENET_STD) + column(IMAGENET_MEAN)
        return (pixels - column(self.mean)) / column(self.std)


def _one_of(name: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise ValueError(f'{name} must be one of {", ".join(valid)}, got {value!r}')
    return value
