"""The interface of an image source."""

from __future__ import annotations

from typing import Any, Callable, Optional, Protocol

import numpy as np

from .value_range import Option

#: ``is_large_enough(height, width)``: whether an image decoded at this size is large enough.
SizePredicate = Callable[[int, int], bool]


class ImageSource(Protocol):
    """A fixed sequence of named images.

    Required: ``len(source)``, :meth:`name` and :meth:`read`. Attributes can be set on it, since
    :func:`fingerprint_of` caches its result there. It is pickled or forked into the workers of a
    data loader, and several threads may read from it.

    Optional methods, and what happens without them:

    * ``is_reachable() -> bool``: whether the files can be reached at all. While they cannot,
      readers wait and retry (:mod:`cotap_mm.datasets.read_with_retry`). Without it: always
      reachable, an image that cannot be read is a bad image.
    * ``fingerprint() -> str``: a digest that changes with the images, see
      :func:`fingerprint_of`. Without it: a digest of the names.
    * ``found_range() -> Option``: the range of values that images with more than 8 bits are
      scaled from, see :func:`prepare`. Without it: ``'auto'``.
    * ``encoded(index) -> bytes``: the content of an image's file; raises :class:`BadImage`. With
      ``COTAP_HASH_IMAGES=1`` the contents are hashed, which also needs ``found_range``. Without
      it: ``fingerprint()`` is used.
    * ``names``: attribute, the names as :class:`.Names`, which workers do not copy. Without it:
      ``name`` is called for every image where all names are needed.
    * ``value_range``: attribute to which training assigns the determined range, so that a resumed
      run uses the same one. Required only with ``found_range``.

    :class:`cotap_mm.datasets.ImageList`, :class:`cotap_mm.datasets.PackedImages` and
    :class:`cotap_mm.datasets.ToyScenes` are image sources.
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int, /) -> str:
        """Name of an image, unique in the source and the same in every run.

        Args:
            index (int): Index of the image, from 0.
        """
        ...

    def read(self, index: int, is_large_enough: Optional[SizePredicate] = None, /) -> np.ndarray:
        """Decode an image.

        Both arguments are passed by position.

        Args:
            index (int): Index of the image.
            is_large_enough (callable, optional): ``is_large_enough(height, width)`` returns
                whether an image of that size is large enough. If it is, the source may return
                the image at a half, a quarter or an eighth of its sides, if that is faster.
                Defaults to None, full size.

        Returns:
            np.ndarray: RGB pixels, shape (H, W, 3), uint8.

        Raises:
            BadImage: If the image cannot be decoded.
            UnreachableImage: If its file cannot be read now, perhaps only for a while.
        """
        ...


def prepare(source: ImageSource) -> Option:
    """Find the value range of a source before it is copied to other processes.

    Args:
        source (ImageSource): The images.

    Returns:
        Option: See :meth:`EncodedImages.found_range`; ``'auto'`` for a source without it.
    """
    found_range: Any = getattr(source, 'found_range', None)
    return 'auto' if found_range is None else found_range()
