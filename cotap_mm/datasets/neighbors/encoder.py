"""What the neighbor search needs to know about a network."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class GlobalFeatureEncoder(Protocol):
    """One global feature per image, for the neighbor search.

    This is not :class:`cotap_mm.encoders.encoder.Encoder`, whose users stand above the data
    sets and whose features are those of a finished network: CLS after the final norm or the
    filter, and a patch map, at any image size. The search compares square images of one size by
    the CLS token of the plain last block, and needs ``identity`` to tell whether features on disk
    may be reused. :class:`cotap_mm.encoders.global_encoder.GlobalEncoder` implements it.

    Attributes:
        identity (str): Equal for encoders that compute equal features.
        image_size (int): Side of the square images, in pixels.
        device (str): Device of the network.
    """

    identity: str
    image_size: int
    device: str

    def __call__(self, images: Tensor) -> Tensor:
        """Compute features.

        Args:
            images (Tensor): ImageNet-normalized RGB, shape (B, 3, s, s), on ``device``.

        Returns:
            Tensor: Features of any length, shape (B, C).
        """
        ...
