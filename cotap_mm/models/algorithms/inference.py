"""What student and teacher are used for, in training and after it."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from cotap_mm.models.modules import feature_std, prototypes_in_use
from cotap_mm.ops import foreground_mask


class FeatureExtractionMixin:
    """Features, masks and monitors of a module that has backbone, neck, head and teacher."""

    @property
    def patch_size(self) -> int:
        """Pixels a patch."""
        return self.backbone.patch_size

    def network(self, branch: str):
        """The student (this module) or the teacher; each has backbone, neck and head."""
        if branch not in ('student', 'teacher'):
            raise ValueError(f"branch must be 'student' or 'teacher', got {branch!r}")
        return self if branch == 'student' else self.teacher

    @torch.no_grad()
    def encode(
        self, images: Tensor, branch: str = 'student', output: str = 'filter'
    ) -> tuple[Tensor, Tensor]:
        """Features of images.

        Args:
            images (Tensor): ImageNet-normalised images, shape (B, 3, h, w).
            branch (str): ``'student'`` (what the authors evaluate) or ``'teacher'``.
            output (str): ``'filter'`` for the filter's 2d channels, ``'backbone'``
                for the last block's d.

        Returns:
            tuple[Tensor, Tensor]: CLS (B, C) and patch map (B, C, H, W).

        Raises:
            ValueError: If ``branch`` or ``output`` is unknown.
        """
        net = self.network(branch)
        _, leaving, grid = net.backbone.forward_tokens(images)
        if output == 'filter':
            cls, patches = net.neck(leaving, grid, net.backbone.last_block)
        elif output == 'backbone':
            cls, patches = leaving[:, 0], leaving[:, 1:]
        else:
            raise ValueError(f"output must be 'filter' or 'backbone', got {output!r}")
        return cls, patches.transpose(1, 2).unflatten(2, grid)

    def forward(self, inputs, data_samples: Optional[list] = None, mode: str = 'tensor'):
        """As in MMPretrain, and with mode ``'monitors'`` those that no loss computes.

        Args:
            inputs (dict | Tensor): Views for ``'loss'``, else normalised images (B, 3, h, w).
            data_samples (list, optional): Unused.
            mode (str): ``'loss'``, ``'tensor'``, or ``'monitors'``.

        Returns:
            dict | tuple: For ``'monitors'`` the spread of the student's patches and, if there
            are any, the share of prototypes in use, each a scalar.
        """
        if mode != 'monitors':
            return super().forward(inputs, data_samples, mode)
        _, patches = self.encode(inputs)
        found = dict(feature_std=feature_std(patches.flatten(2).transpose(1, 2).flatten(0, 1)))
        if self.neck.num_prototypes:
            attention = self.prototype_attention(inputs).flatten(2, 3)
            found['prototypes_in_use'] = prototypes_in_use(attention)
        return found

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """CLS and patch map of the student's filter, see :meth:`encode`."""
        return self.encode(inputs)

    @torch.no_grad()
    def foreground(self, images: Tensor, branch: str = 'teacher') -> Tensor:
        """Foreground masks (B, H, W), bool, of normalised images (B, 3, h, w)."""
        backbone = self.network(branch).backbone
        entering, _, grid = backbone.forward_tokens(images)
        return foreground_mask(backbone.cls_attention(entering).unflatten(2, grid))

    @torch.no_grad()
    def prototype_attention(self, images: Tensor, branch: str = 'student') -> Tensor:
        """What each patch attends to, (B, heads, H, W, M), of images (B, 3, h, w)."""
        net = self.network(branch)
        _, leaving, grid = net.backbone.forward_tokens(images)
        return net.neck.attention(leaving, grid, net.backbone.last_block).unflatten(2, grid)
