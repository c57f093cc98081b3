"""Compute the features of the images, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Callable, Optional

import numpy as np
import torch
from torch import Tensor

from cotap_mm import signals
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.distributed.failures import show_progress
from cotap_mm.encoders.encoder import Encoder, EncoderOutput, normalize_images
from cotap_mm.encoders.images import Size
from cotap_mm.errors import UserError
from cotap_mm.progress import Progress

from .parts import Parts
from .reading import ReadImage, equal_sizes, reading

#: Feature -> how it follows from what an encoder returns.
FEATURES: dict[str, Callable[[EncoderOutput], Tensor]] = {
    'cls': lambda output: output.cls,  # (B, C)
    'mean': lambda output: output.patches.mean(dim=(2, 3)),  # (B, C, h, w) -> (B, C)
    'patches': lambda output: output.patches,  # (B, C, h, w)
}
#: Types of the stored features.
DTYPES = ('float32', 'float16')


class PartBuilder:
    """Encode the images of parts, batch by batch, and write each part.

    Args:
        encoder (Encoder): Computes the features.
        parts (Parts): Where they are written.
        names (sequence): Features to keep, keys of :data:`FEATURES`.
        dtype (str): One of :data:`DTYPES`.
    """

    def __init__(self, encoder: Encoder, parts: Parts, names: Sequence[str], dtype: str) -> None:
        self.encoder, self.parts, self.names, self.dtype = encoder, parts, names, dtype

    def build(
        self,
        source: ImageSource,
        numbers: Sequence[int],
        size: Optional[Size],
        batch_size: int,
        num_workers: int,
        progress: Progress,
    ) -> None:
        """Compute and write parts.

        Args:
            source (ImageSource): The images.
            numbers (sequence): Numbers of the parts.
            size (int | tuple, optional): Size of all images.
            batch_size (int): Images per forward pass.
            num_workers (int): Number of loader workers.
            progress (Progress): Counts images.

        Raises:
            UserError: If features are not finite, or a worker dies or hangs.
        """
        planned = [(number, self.parts.batches(number, batch_size)) for number in numbers]
        every = [batch for _, batches in planned for batch in batches]
        with reading(source, every, size, num_workers) as loaded:
            for number, batches in planned:
                self._build_one(number, islice(loaded, len(batches)), progress)

    def _build_one(
        self, number: int, batches: Iterable[list[ReadImage]], progress: Progress
    ) -> None:
        indices: list[int] = []
        unreadable: dict[int, str] = {}
        blocks: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        for batch in batches:
            for group, pixels in equal_sizes(batch):
                indices += group
                for name, block in self._encode(pixels).items():
                    blocks[name].append(block)
            unreadable.update({each.number: each.reason for each in batch if each.pixels is None})
            signals.check()
            show_progress()
            progress.update(len(batch))
        arrays = {name: np.concatenate(own) for name, own in blocks.items() if own}
        self.parts.save(number, indices, arrays, unreadable)

    def _encode(self, pixels: Tensor) -> dict[str, np.ndarray]:
        output = self.encoder(normalize_images(pixels.to(self.encoder.device)))
        arrays = {}
        for name in self.names:
            values = FEATURES[name](output)
            if not bool(values.isfinite().all()):
                raise UserError(
                    'the encoder returns features that are not finite; check its checkpoint'
                )
            kept = values.to(getattr(torch, self.dtype))
            if not bool(kept.isfinite().all()):
                raise UserError(
                    f'features up to {float(values.abs().max()):.3g} do not fit into '
                    f'{self.dtype}; use float32 (--dtype float32)'
                )
            arrays[name] = kept.cpu().numpy()
        return arrays
