"""The one contract between a backbone and every evaluation or picture."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.ops import foreground_mask

from .images import Picture, stack_pictures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EncoderOutput(NamedTuple):
    """What an encoder says about a batch of images.

    Attributes:
        cls (Tensor): One feature for each image, shape (B, C).
        patches (Tensor): One feature for each patch, shape (B, C, h, w). The grid
            covers the whole image.
    """

    cls: Tensor
    patches: Tensor


def normalize_images(images: Tensor) -> Tensor:
    """Turn RGB pixels into the input of an encoder.

    Args:
        images (Tensor): uint8 RGB pixels, shape (..., 3, H, W).

    Returns:
        Tensor: float32, ImageNet mean 0 and standard deviation 1, the same shape.

    Raises:
        TypeError: If the pixels are not uint8: a second normalisation would go unnoticed.
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f'images must be uint8 pixels 0-255, got {images.dtype}; normalise an image once only'
        )
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode, and every submodule back to its own mode at the end."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class Encoder(ABC):
    """Image batch -> CLS feature and patch map.

    An image whose sides are no multiples of the patch size is resized (bilinear, antialias)
    to the nearest multiples, at least one patch. It is not padded, so that the
    patch map always covers exactly the whole image, and a prediction made on the
    patches can be resized to the image.

    Args:
        module (nn.Module): The network; only its parameters and its train/eval mode are
            used here.
        patch_size (int): Side of a patch, in pixels.
    """

    def __init__(self, module: nn.Module, patch_size: int) -> None:
        self.module = module
        self.patch_size = patch_size

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Number of patches (h, w) of an image of ``height`` x ``width`` pixels."""

        def count(side: int) -> int:
            # Halves go up; round() would send 1.5 and 2.5 patches both to 2.
            return max(1, (2 * side + self.patch_size) // (2 * self.patch_size))

        return count(height), count(width)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> EncoderOutput:
        """Encode images, in eval mode and without gradient.

        Args:
            images (Tensor): ImageNet-normalised RGB, float, shape (B, 3, H, W); see
                :func:`normalize_images`.

        Returns:
            EncoderOutput: float32 features, on the device of the network.

        Raises:
            ValueError: If the images have another shape or are not float.
        """
        images = self._fit(images)
        with eval_mode(self.module):
            cls, patches = self._encode(images)  # (B, C), (B, C, h, w)
        return EncoderOutput(cls.float(), patches.float())

    def encode(
        self,
        images: Union[Picture, Sequence[Picture]],
        size: Optional[Union[int, tuple[int, int]]] = None,
    ) -> EncoderOutput:
        """Features of pictures, with everything done to them that the network expects.

        Args:
            images (path | PIL image | ndarray | Tensor, or a sequence of them): RGB. Arrays
                are uint8 (H, W, 3), tensors uint8 (3, H, W) or a batch (B, 3, H, W).
            size (int | tuple[int, int], optional): Height and width to resize to, needed
                for pictures of different sizes. By default each keeps its own, rounded
                to whole patches.

        Returns:
            EncoderOutput: CLS (B, C) and patch map (B, C, h, w), float32.

        Raises:
            TypeError: If a picture is of another kind, or its pixels are not uint8.
            ValueError: If pictures differ in size and ``size`` is not given.
        """
        return self(normalize_images(stack_pictures(images, size)))

    def layers(self, images: Tensor) -> list[Tensor]:
        """Patch maps that leave each block, before any final norm or filter.

        Args:
            images (Tensor): As in :meth:`__call__`.

        Returns:
            list[Tensor]: One (B, d, h, w) for each block, float32.

        Raises:
            NotImplementedError: If the network is no ViT.
        """
        raise NotImplementedError(
            f'{type(self).__name__} cannot show single layers: its network is not a ViT of blocks'
        )

    def cls_attention(self, images: Tensor) -> Tensor:
        """Attention of CLS to the patches in the last block.

        Args:
            images (Tensor): As in :meth:`__call__`.

        Returns:
            Tensor: Softmax weights, shape (B, heads, h, w), float32.

        Raises:
            NotImplementedError: If the network has no CLS token or no such attention.
        """
        raise NotImplementedError(
            f'{type(self).__name__} has no CLS token whose attention could be shown'
        )

    def prototype_attention(self, images: Tensor) -> Tensor:
        """What each patch attends to in the object-aware filter.

        Args:
            images (Tensor): As in :meth:`__call__`.

        Returns:
            Tensor: Weights over the M prototypes, shape (B, heads, h, w, M), float32.

        Raises:
            NotImplementedError: If the network has no object-aware filter.
        """
        raise NotImplementedError(
            f'{type(self).__name__} has no object-aware filter; prototypes '
            'exist only in networks trained by CoTAP'
        )

    def foreground(self, images: Tensor, mass: float = 0.6) -> Tensor:
        """Patches that hold ``mass`` of CLS's attention, bool, shape (B, h, w).

        The mask that pre-training uses, see :func:`cotap_mm.ops.foreground_mask`.
        """
        return foreground_mask(self.cls_attention(images), mass)

    def weights_hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of all weights, with their names."""
        digest = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:12]

    def _fit(self, images: Tensor) -> Tensor:
        """Check images, bring them to the device and to whole patches."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                'images must be float and of shape (B, 3, H, W), got '
                f'{images.dtype} {tuple(images.shape)}; see normalize_images'
            )
        images = images.to(self.device)
        height, width = images.shape[2:]
        rows, columns = self.grid(height, width)
        size = (rows * self.patch_size, columns * self.patch_size)
        if size != (height, width):
            images = F.interpolate(
                images, size, mode='bilinear', align_corners=False, antialias=True
            )
        return images

    @abstractmethod
    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        """Encode images whose sides are multiples of the patch size."""
