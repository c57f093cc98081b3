"""The pre-trained network for downstream tasks: ViT and object-aware filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmpretrain.models.backbones.vit_sam import window_partition, window_unpartition
from torch import Tensor

from cotap_mm.models.necks import ObjectAwareFilter
from cotap_mm.ops import Rotation, patch_tokens
from cotap_mm.registry import MODELS
from cotap_mm.rules import FLAG, any_of, check_arguments, or_one_of, sequence, whole

from .dino_vit import DINOViT

_OUT_TYPES = ('featmap', 'cls_token', 'raw')


@MODELS.register_module()
class CoTAPViT(DINOViT):
    """ViT whose last level is the output of the object-aware filter.

    Consists of the same parts as in pre-training, for MMSegmentation, MMDetection and MMPretrain.
    Supports any image size and aspect ratio (sides that are not multiples of the patch size are
    padded at the right and bottom), several levels, frozen stages and drop path. Levels before the
    last have d channels. The last has 2d: the tokens of the last block and their filtered version.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; windowed attention with global blocks in
    between: ViTDet, https://arxiv.org/abs/2203.16527.

    Args:
        *args: ``arch`` and ``patch_size`` of :class:`DINOViT`, if they have no names.
        out_indices (int | Sequence[int]): Blocks whose output is a level; negative values count
            from the end. Defaults to -1, the last block.
        out_type (str): ``'featmap'`` for feature maps (B, C, H, W), ``'cls_token'`` for (B, C),
            ``'raw'`` for tokens (B, 1+N, C), CLS first, without registers. Defaults to
            ``'featmap'``.
        use_filter (bool): Whether the last level is the filter's output. Else it is the output of
            the last block (d channels), for comparison. Defaults to True.
        num_prototypes (int): M, number of prototypes of the filter. Defaults to 64.
        train_prototypes (bool): Whether fine-tuning updates the prototypes. Pre-training updates
            them by the prototype entropy loss only. Defaults to True.
        frozen_stages (int): Number of leading blocks that are frozen and in eval mode, together
            with the embeddings; if these are all blocks, the filter is frozen too. Defaults to -1,
            nothing frozen.
        window_size (int): Side, in patches, of the attention windows of all blocks but
            ``global_blocks``; 0 for global attention. Each window has its own copy of CLS and
            registers, and the copies are averaged after the block. Defaults to 0.
        global_blocks (Sequence[int], optional): Blocks with global attention. Defaults to the last
            block of each quarter of the network.
        **kwargs: Arguments of :class:`DINOViT` and MMPretrain's ``VisionTransformer``: ``arch``,
            ``patch_size``, ``img_size``, ``in_channels``, ``drop_path_rate``, ``with_cp``, ...

    Raises:
        ValueError: If an argument is invalid or contradicts another one.
    """

    @check_arguments(
        out_indices=any_of(whole(), sequence('a list of integers', whole())),
        use_filter=FLAG,
        num_prototypes=whole(0),  # without a filter
        train_prototypes=FLAG,
        frozen_stages=whole(-1),
        window_size=whole(0),
        global_blocks=or_one_of(sequence('a list of block numbers >= 0', whole(0)), None, [], ()),
    )
    def __init__(
        self,
        *args: Any,
        out_indices: Union[int, Sequence[int]] = -1,
        out_type: str = 'featmap',
        use_filter: bool = True,
        num_prototypes: int = 64,
        train_prototypes: bool = True,
        frozen_stages: int = -1,
        window_size: int = 0,
        global_blocks: Optional[Sequence[int]] = None,
        **kwargs: Any,
    ) -> None:
        if out_type not in _OUT_TYPES:
            raise ValueError(f'out_type must be one of {_OUT_TYPES}, got {out_type!r}')
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        super().__init__(*args, out_indices=indices, out_type=out_type, **kwargs)
        last = self.num_layers - 1
        wrong = [index for index in self.out_indices if index > last]
        if wrong:
            raise ValueError(
                f'out_indices must be below {self.num_layers}, the number of blocks, got {wrong}'
            )
        if use_filter and last not in self.out_indices:
            raise ValueError(
                f'the filter follows the last block: add {last} to out_indices, got '
                f'{self.out_indices}, or set use_filter=False'
            )
        self._check_stages(frozen_stages)
        if max(global_blocks or [0]) > last:
            raise ValueError(
                f'global_blocks must be below {self.num_layers}, the number of blocks, got '
                f'{global_blocks}'
            )
        self.window_size = window_size
        self.global_blocks = set(
            global_blocks
            if global_blocks is not None
            else (self.num_layers * (quarter + 1) // 4 - 1 for quarter in range(4))
        )
        self.neck = (
            ObjectAwareFilter(
                self.embed_dims, num_prototypes, detach_prototypes=not train_prototypes
            )
            if use_filter
            else None
        )
        if use_filter:
            self._freeze_unused()
        self.frozen_stages = frozen_stages
        self._freeze_stages()

    @property
    def out_channels(self) -> list[int]:
        """Channels of each level."""
        return [
            self.neck.out_channels
            if self.neck is not None and index == self.num_layers - 1
            else self.embed_dims
            for index in self.out_indices
        ]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the levels.

        Args:
            images (Tensor): Normalized images, shape (B, in_channels, h, w), any h and w.

        Returns:
            tuple[Tensor, ...]: A tensor for each of ``out_indices``, see ``out_type``. H and W are
            h and w divided by the patch size, rounded up.
        """
        tokens, grid = self.embed(images)
        rotation = self.rotation(grid)
        inside = self._rotation_in_windows(rotation, grid, len(tokens))
        levels = []
        for index, block in enumerate(self.layers):
            if self.window_size and index not in self.global_blocks:
                tokens = self._run_in_windows(block, tokens, grid, inside)
            else:
                tokens = self.run_block(block, tokens, rotation)
            if index not in self.out_indices:
                continue
            if self.neck is not None and index == self.num_layers - 1:
                levels.append(self._filtered(tokens, grid))
            else:
                levels.append(self._format_output(tokens, grid))
        return tuple(levels)

    def train(self, mode: bool = True) -> CoTAPViT:
        """Set the mode; frozen stages stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of a parameter for layer-wise learning rates, and the number of depths.

        See :meth:`DINOViT.get_layer_depth`; the filter has the depth of the last block.
        """
        if param_name.startswith(prefix + 'neck.'):
            return self.num_layers, self.num_layers + 2
        return super().get_layer_depth(param_name, prefix)

    def _filtered(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the last level; filters only the tokens that ``out_type`` needs."""
        block = self.last_block
        if self.out_type == 'cls_token':
            return self.neck.filter_cls(tokens[:, 0], block)
        patches = self.neck.filter_patches(patch_tokens(tokens, grid), grid, block)
        if self.out_type == 'featmap':
            return patches.transpose(1, 2).unflatten(2, grid)
        return torch.cat([self.neck.filter_cls(tokens[:, 0], block)[:, None], patches], dim=1)

    def _run_in_windows(
        self,
        block: torch.nn.Module,
        tokens: Tensor,
        grid: tuple[int, int],
        rotation: Optional[Rotation],
    ) -> Tensor:
        patches = patch_tokens(tokens, grid).unflatten(1, grid)  # (B, H, W, d)
        windows, padded = window_partition(patches, self.window_size)  # (B*n, w, w, d)
        count = len(windows) // len(tokens)
        first = self.num_prefix
        prefix = tokens[:, :first].repeat_interleave(count, dim=0)  # (B*n, 1+R, d)
        inside = torch.cat([prefix, windows.flatten(1, 2)], dim=1)
        inside = self.run_block(block, inside, rotation)
        prefix = inside[:, :first].unflatten(0, (-1, count)).mean(dim=1)
        windows = inside[:, first:].unflatten(1, (self.window_size, self.window_size))
        patches = window_unpartition(windows, self.window_size, padded, grid)
        return torch.cat([prefix, patches.flatten(1, 2)], dim=1)

    def _rotation_in_windows(
        self, rotation: Optional[Rotation], grid: tuple[int, int], batch: int
    ) -> Optional[Rotation]:
        """Cut the rotation of a grid into windows: (H*W, c) -> (B*n, 1, w*w, c)."""
        if rotation is None or not self.window_size:
            return rotation
        cut = []
        for values in rotation:
            windows, _ = window_partition(values.unflatten(0, grid)[None], self.window_size)
            cut.append(windows.flatten(1, 2)[:, None].repeat(batch, 1, 1, 1))
        return Rotation(*cut)

    def _freeze_unused(self) -> None:
        """Freeze parameters that never get a gradient, since DDP would wait for it."""
        unused = {'featmap': self.neck.norm_cls, 'cls_token': self.neck.norm_patch}
        if self.out_type in unused:
            unused[self.out_type].requires_grad_(False)
        if self.neck.detach_prototypes:
            self.neck.prototypes.requires_grad_(False)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        super()._freeze_stages()
        if self.neck is not None and self.frozen_stages == self.num_layers:
            self.neck.eval().requires_grad_(False)
