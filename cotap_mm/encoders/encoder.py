"""Interface of frozen backbones: images in, CLS feature and patch map out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.ops import foreground_mask
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD
from cotap_mm.progress import Progress
from cotap_mm.weights.hashing import weights_hash

from .images import Picture, open_pictures, stacked_batches


class EncoderOutput(NamedTuple):
    """Features of a batch of images.

    Attributes:
        cls (Tensor): One feature per image, shape (B, C).
        patches (Tensor): One feature per patch, shape (B, C, h, w). The grid covers the
            whole image.
    """

    cls: Tensor
    patches: Tensor


def normalize_images(images: Tensor) -> Tensor:
    """Convert RGB pixels to the input of an encoder.

    Args:
        images (Tensor): uint8 RGB pixels, shape (..., 3, H, W).

    Returns:
        Tensor: Normalized with ImageNet's mean and standard deviation, float32, same shape.

    Raises:
        TypeError: If the pixels are not uint8, since normalizing twice would go unnoticed.
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f'images must be uint8 pixels 0-255, got {images.dtype}; normalize images only once'
        )
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode, and restore the mode of every submodule on exit."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class Encoder(ABC):
    """Compute CLS features and patch maps of image batches.

    An image whose sides are not multiples of the patch size is resized (bilinear, antialias)
    to the nearest multiples, at least one patch. It is not padded, so the patch map covers
    exactly the whole image, and a prediction per patch can be resized to the image.

    Args:
        module (nn.Module): The network; this class uses only its parameters and its
            train/eval mode.
        patch_size (int): Patch size in pixels.
    """

    def __init__(self, module: nn.Module, patch_size: int) -> None:
        self.module = module
        self.patch_size = patch_size

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.module.parameters()).device

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Compute the number of patches (h, w) of an image of ``height`` x ``width`` pixels."""

        def count(side: int) -> int:
            # Round half up; round() would map both 1.5 and 2.5 patches to 2.
            return max(1, (2 * side + self.patch_size) // (2 * self.patch_size))

        return count(height), count(width)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> EncoderOutput:
        """Encode images, in eval mode and without gradient.

        Args:
            images (Tensor): ImageNet-normalized RGB, float, shape (B, 3, H, W); see
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
        images: Union[Picture, Sequence[Picture], Any],
        size: Optional[Union[int, tuple[int, int]]] = None,
        batch_size: int = 32,
        progress: bool = False,
        value_range: Option = 'auto',
    ) -> EncoderOutput:
        """Load, resize, normalize and encode images.

        ::

            cls, patches = encoder.encode('photo.jpg')               # (1, C) and (1, C, h, w)
            cls, patches = encoder.encode('photos', size=224)        # all images of a folder
            cls, patches = encoder.encode(['a.jpg', array, tensor], size=(224, 448))

        All features are kept in memory; :func:`cotap_mm.embed` writes those of many images to a
        file.

        Args:
            images (path | PIL image | ndarray | Tensor, or a sequence of them): RGB. Arrays
                are uint8 (H, W, 3) or a batch (B, H, W, 3), tensors uint8 (3, H, W) or a batch
                (B, 3, H, W). The path of a folder or of a packed file (``*.lmdb``) means all of
                its images; an image source such as :class:`~cotap_mm.datasets.ImageList` is
                accepted as well.
            size (int | tuple[int, int], optional): Height and width to resize to, required
                for images of different sizes. By default the size is kept, rounded to
                whole patches.
            batch_size (int): Images that are read and encoded at a time. Defaults to 32.
            progress (bool): Show the progress. Defaults to False.
            value_range: How values of more than 8 bits become 0 to 255, see
                :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``: one range for all
                images, derived from them.

        Returns:
            EncoderOutput: CLS (B, C) and patch map (B, C, h, w), float32, in the order of the
            images.

        Raises:
            BadImage: If a file cannot be decoded.
            FileNotFoundError: If a folder has no images.
            TypeError: If an image has another type, or its pixels are not uint8.
            ValueError: If images differ in size and ``size`` is not given.
        """
        pictures = open_pictures(images, value_range)
        parts = []
        with Progress(len(pictures), 'encoding', show=progress) as shown:
            for pixels in stacked_batches(pictures, size, batch_size):
                parts.append(self(normalize_images(pixels)))
                shown.update(len(pixels))
        if len(parts) == 1:
            return parts[0]
        return EncoderOutput(*(torch.cat(maps) for maps in zip(*parts)))

    def layers(self, images: Tensor) -> list[Tensor]:
        """Compute the patch map after each block, before any final norm or filter.

        Args:
            images (Tensor): Input of :meth:`__call__`.

        Returns:
            list[Tensor]: One patch map (B, d, h, w) per block, float32.

        Raises:
            NotImplementedError: If the network is not a ViT.
        """
        raise NotImplementedError(
            f'{type(self).__name__} has no single layers: its network is not a ViT of blocks'
        )

    def cls_attention(self, images: Tensor) -> Tensor:
        """Compute the attention of CLS to the patches in the last block.

        Args:
            images (Tensor): Input of :meth:`__call__`.

        Returns:
            Tensor: Softmax weights, shape (B, heads, h, w), float32.

        Raises:
            NotImplementedError: If the network has no CLS token or no such attention.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not provide the attention of a CLS token'
        )

    def prototype_attention(self, images: Tensor) -> Tensor:
        """Compute the attention of each patch to the prototypes of the object-aware filter.

        Args:
            images (Tensor): Input of :meth:`__call__`.

        Returns:
            Tensor: Weights over the M prototypes, shape (B, heads, h, w, M), float32.

        Raises:
            NotImplementedError: If the network has no object-aware filter.
        """
        raise NotImplementedError(
            f'{type(self).__name__} has no object-aware filter; prototypes '
            'exist only in networks trained with CoTAP'
        )

    def foreground(self, images: Tensor, mass: float = 0.6) -> Tensor:
        """Compute the foreground mask of pre-training; see :func:`cotap_mm.ops.foreground_mask`.

        Args:
            images (Tensor): Input of :meth:`__call__`.
            mass (float): Share of CLS's attention that foreground patches receive, in (0, 1].
                Defaults to 0.6.

        Returns:
            Tensor: True for foreground, bool, shape (B, h, w).
        """
        return foreground_mask(self.cls_attention(images), mass)

    def weights_hash(self) -> str:
        """Return the first 12 digits of :func:`cotap_mm.weights.hashing.weights_hash`."""
        return weights_hash(self.module.state_dict())[:12]

    def _fit(self, images: Tensor) -> Tensor:
        """Check images, move them to the device and resize them to whole patches."""
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
