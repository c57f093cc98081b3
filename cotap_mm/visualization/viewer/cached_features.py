"""Photographs and features of the interactive viewer, computed on first use."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.files.atomic_write import printable
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.canvas import Pixels
from cotap_mm.visualization.report.image_set import (
    encode_images,
    encode_tokens,
    in_batches,
    read_images,
)

from .lru_cache import MemoryLRU


class CachedFeatures:
    """Encodes images on first use and caches photographs, features and maps.

    Args:
        encoders (dict): Name -> encoder, at least one.
        source: Images with ``len``, ``name(i)`` and ``read(i)``.
        size (tuple): Height and width in pixels to which all images are resized.
        most_bytes (int): Memory for cached features, maps and photographs.
    """

    def __init__(
        self, encoders: dict[str, Encoder], source: Any, size: tuple[int, int], most_bytes: int
    ) -> None:
        self.encoders, self.source, self.size = encoders, source, size
        self.cache = MemoryLRU(most_bytes)

    def of(self, names: Sequence[str]) -> CachedFeatures:
        """Return the features of some encoders, in their order here, with the same cache."""
        some = copy(self)
        some.encoders = {name: own for name, own in self.encoders.items() if name in names}
        return some

    def photo(self, index: int) -> Pixels:
        """Return an image, uint8 (H, W, 3).

        Raises:
            NotAvailable: If it cannot be read.
        """

        def read() -> Pixels:
            try:
                return read_images(self.source, [index], self.size).pixels[0]
            except BadImage as error:  # its message may contain the path
                raise NotAvailable(
                    f'{printable(self.source.name(index))} cannot be read: it is '
                    'damaged, too large or no longer there; choose another image'
                ) from error

        return self.cache.once(('photo', index), read)

    def maps(self, name: str, chosen: Sequence[int], what: str = 'patches') -> Tensor:
        """Return features or attention of images, computed only if not cached.

        Args:
            name (str): Name of the encoder.
            chosen (sequence): Indices of the images.
            what (str): ``'patches'`` (features of unit length), ``'tokens'`` (see
                :func:`encode_tokens`), or a method of the encoder. Defaults to 'patches'.

        Returns:
            Tensor: One map for each image, shape (B, ...), on the CPU.

        Raises:
            NotImplementedError: If the encoder does not support it.
        """
        known = {i: self.cache[name, i, what] for i in chosen if (name, i, what) in self.cache}
        missing = [i for i in dict.fromkeys(chosen) if i not in known]
        if missing:
            computed = self._compute(name, [self.photo(i) for i in missing], what)
            for i, own in zip(missing, computed):
                # A copy: a view would keep the whole batch in memory.
                known[i] = self.cache[name, i, what] = own.clone()
        return torch.stack([known[i] for i in chosen])

    def supported(self, what: str, chosen: Sequence[int]) -> tuple[dict[str, Tensor], str]:
        """Return maps of the encoders that support them, and a sentence about the others.

        Raises:
            NotAvailable: If no encoder supports them.
        """
        maps, reasons = {}, []
        for name in self.encoders:
            try:
                maps[name] = self.maps(name, chosen, what)
            except NotImplementedError as error:
                reasons.append(f'{name}: {error}')
        if not maps:
            raise NotAvailable('; '.join(reasons))
        return maps, ''.join(f' Skipped {reason}.' for reason in reasons)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the cached value of a key, or compute it."""
        return self.cache.once(key, compute)

    def _compute(self, name: str, photos: Sequence[Pixels], what: str) -> Tensor:
        encoder = self.encoders[name]
        if what == 'patches':
            return F.normalize(encode_images(encoder, photos), dim=1)
        if what == 'tokens':
            return encode_tokens(encoder, photos)
        return in_batches(getattr(encoder, what), photos)
