"""Feature extraction with student and teacher, during and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.utils import deprecated_api_warning
from torch import Tensor

from cotap_mm.models.modules import feature_std, prototypes_in_use
from cotap_mm.ops import patch_tokens

_RENAMED = dict(branch='network')


class FeatureExtractionMixin:
    """Features, masks and monitors of an algorithm with backbone, neck, head and teacher."""

    @property
    def patch_size(self) -> int:
        """Patch size in pixels."""
        return self.backbone.patch_size

    @deprecated_api_warning(dict(branch='name'), cls_name='CoTAP')
    def network(self, name: str):
        """Return the student (this module) or the teacher; each has backbone, neck and head.

        Args:
            name (str): ``'student'`` or ``'teacher'``.

        Raises:
            ValueError: If ``name`` is unknown.
        """
        if name not in ('student', 'teacher'):
            raise ValueError(f"network must be 'student' or 'teacher', got {name!r}")
        return self if name == 'student' else self.teacher

    @deprecated_api_warning(_RENAMED, cls_name='CoTAP')
    @torch.no_grad()
    def encode(
        self, images: Tensor, network: str = 'student', output: str = 'filter'
    ) -> tuple[Tensor, Tensor]:
        """Extract features of images.

        Args:
            images (Tensor): ImageNet-normalized images, shape (B, 3, h, w).
            network (str): ``'student'`` (which the authors evaluate) or ``'teacher'``. Defaults to
                ``'student'``.
            output (str): ``'filter'`` for the 2d channels of the filter, ``'backbone'`` for the d
                channels of the last block. Defaults to ``'filter'``.

        Returns:
            tuple[Tensor, Tensor]: CLS (B, C) and patch map (B, C, H, W).

        Raises:
            ValueError: If ``network`` or ``output`` is unknown.
        """
        return self.encode_outputs(images, network, (output,))[0]

    @torch.no_grad()
    def encode_outputs(
        self, images: Tensor, network: str, outputs: Sequence[str]
    ) -> list[tuple[Tensor, Tensor]]:
        """Extract several outputs from one pass through the backbone.

        Args:
            images (Tensor): See :meth:`encode`.
            network (str): See :meth:`encode`.
            outputs (sequence): Values of ``output`` of :meth:`encode`.

        Returns:
            list[tuple[Tensor, Tensor]]: For each output what :meth:`encode` returns, to the bit.

        Raises:
            ValueError: If ``network`` or an output is unknown.
        """
        net = self.network(network)
        _, leaving, grid = net.backbone.forward_tokens(images)
        pairs = []
        for output in outputs:
            if output == 'filter':
                cls, patches = net.neck(leaving, grid, net.backbone.last_block)
            elif output == 'backbone':
                cls, patches = leaving[:, 0], patch_tokens(leaving, grid)
            else:
                raise ValueError(f"output must be 'filter' or 'backbone', got {output!r}")
            pairs.append((cls, patches.transpose(1, 2).unflatten(2, grid)))
        return pairs

    def forward(self, inputs, data_samples: Optional[list] = None, mode: str = 'tensor'):
        """Run the algorithm as MMPretrain does; mode ``'monitors'`` is added.

        Args:
            inputs (ViewsBatch | Tensor): Views for ``'loss'``, else normalized images (B, 3, h, w).
            data_samples (list, optional): Unused.
            mode (str): ``'loss'``, ``'tensor'`` or ``'monitors'``. Defaults to ``'tensor'``.

        Returns:
            dict | tuple: For ``'monitors'``, scalars ``feature_std``, the spread of the student's
            patch features, and ``prototypes_in_use``, if there are prototypes.
        """
        if mode != 'monitors':
            return super().forward(inputs, data_samples, mode)
        _, patches = self.encode(inputs)
        monitors = dict(feature_std=feature_std(patches.flatten(2).transpose(1, 2).flatten(0, 1)))
        if self.neck.num_prototypes:
            attention = self.prototype_attention(inputs).flatten(2, 3)
            monitors['prototypes_in_use'] = prototypes_in_use(attention)
        return monitors

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Extract CLS and patch map of the student's filter, see :meth:`encode`."""
        return self.encode(inputs)

    @deprecated_api_warning(_RENAMED, cls_name='CoTAP')
    @torch.no_grad()
    def foreground(self, images: Tensor, network: str = 'teacher') -> Tensor:
        """Compute foreground masks, as the patch losses use them.

        Args:
            images (Tensor): ImageNet-normalized images, shape (B, 3, h, w).
            network (str): ``'student'`` or ``'teacher'``. Defaults to ``'teacher'``.

        Returns:
            Tensor: Masks, bool (B, H, W).
        """
        backbone = self.network(network).backbone
        entering, _, grid = backbone.forward_tokens(images)
        return self.masking(backbone, entering, grid)

    @deprecated_api_warning(_RENAMED, cls_name='CoTAP')
    @torch.no_grad()
    def prototype_attention(self, images: Tensor, network: str = 'student') -> Tensor:
        """Compute the attention of patches to prototypes.

        Args:
            images (Tensor): ImageNet-normalized images, shape (B, 3, h, w).
            network (str): ``'student'`` or ``'teacher'``. Defaults to ``'student'``.

        Returns:
            Tensor: Weights, shape (B, heads, H, W, M).
        """
        net = self.network(network)
        _, leaving, grid = net.backbone.forward_tokens(images)
        return net.neck.attention(leaving, grid, net.backbone.last_block).unflatten(2, grid)
