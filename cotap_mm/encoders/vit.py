"""Encoders of vision transformers: CoTAP algorithms and MMPretrain's ViTs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

import torch
from torch import Tensor, nn

from cotap_mm.deprecation import renamed_argument
from cotap_mm.models import DINOViT
from cotap_mm.ops import cls_attention, patch_tokens

from .encoder import Encoder, EncoderOutput, eval_mode

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
        grid = self.grid(*images.shape[2:])
        return self._attend(images, grid).unflatten(2, grid)

    def _entering_last(self, images: Tensor) -> Tensor:
        """Compute the tokens that enter the last block."""
        with self._watch() as (entering, _):
            self._encode(images)
        return entering[-1]

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
    def _attend(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the attention of CLS in the last block, (B, heads, N), N patches of the grid."""


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
    def outputs(self, images: Tensor, outputs: Sequence[str]) -> list[EncoderOutput]:
        """Compute several outputs of the network in one forward pass.

        Args:
            images (Tensor): Input of :meth:`__call__`.
            outputs (sequence): ``'filter'`` or ``'backbone'``.

        Returns:
            list[EncoderOutput]: For each output what an encoder with it returns.
        """
        images = self._fit(images)
        with eval_mode(self.module):
            pairs = self.module.encode_outputs(images, self.network, outputs)
        return [EncoderOutput(cls.float(), patches.float()) for cls, patches in pairs]

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

    def _attend(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        entering = self._entering_last(images)
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

    def _attend(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        entering = self._entering_last(images)
        if isinstance(self.module, DINOViT):
            return self.module.cls_attention(entering, grid)
        block = self.blocks[-1]
        return cls_attention(
            block.ln1(entering), block.attn.qkv, block.attn.num_heads, self.num_prefix
        )


def _one_of(name: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise ValueError(f'{name} must be one of {", ".join(valid)}, got {value!r}')
    return value
