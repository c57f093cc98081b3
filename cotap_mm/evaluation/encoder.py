"""The one contract between a backbone and every evaluation or picture."""
from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BRANCHES = ('student', 'teacher')
OUTPUTS = ('filter', 'backbone')


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
        raise TypeError(f'images must be uint8 pixels 0-255, got {images.dtype}; '
                        'normalise an image once only')
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
        module (nn.Module): The network; only its parameters' device and its
            train/eval mode are used here.
        patch_size (int): Side of a patch, in pixels.
    """

    def __init__(self, module: nn.Module, patch_size: int) -> None:
        self.module = module
        self.patch_size = patch_size

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    def grid(self, height: int, width: int) -> Tuple[int, int]:
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
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError('images must be float and of shape (B, 3, H, W), got '
                             f'{images.dtype} {tuple(images.shape)}; see normalize_images')
        images = images.to(self.device)
        height, width = images.shape[2:]
        rows, columns = self.grid(height, width)
        size = (rows * self.patch_size, columns * self.patch_size)
        if size != (height, width):
            images = F.interpolate(
                images, size, mode='bilinear', align_corners=False, antialias=True)
        with eval_mode(self.module):
            cls, patches = self._encode(images)  # (B, C), (B, C, h, w)
        return EncoderOutput(cls.float(), patches.float())

    @abstractmethod
    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        """Encode images whose sides are multiples of the patch size."""


def _one_of(name: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise ValueError(f'{name} must be one of {", ".join(valid)}, got {value!r}')
    return value


class CoTAPEncoder(Encoder):
    """Student or teacher of a :class:`~cotap_mm.models.CoTAP` algorithm.

    Args:
        algorithm (nn.Module): Has ``encode(images, branch, output) -> (cls, patches)``
            and ``patch_size``, as ``CoTAP`` has.
        branch (str): 'student' (published results are the student's) or 'teacher'.
            Defaults to 'student'.
        output (str): 'filter' (object-aware filter, C = 2d) or 'backbone' (the
            plain last block, C = d). Defaults to 'filter'.

    Raises:
        ValueError: If branch or output is another word.
    """

    def __init__(self,
                 algorithm: nn.Module,
                 branch: str = 'student',
                 output: str = 'filter') -> None:
        super().__init__(algorithm, algorithm.patch_size)
        self.branch = _one_of('branch', branch, BRANCHES)
        self.output = _one_of('output', output, OUTPUTS)

    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        return self.module.encode(images, branch=self.branch, output=self.output)


class ViTEncoder(Encoder):
    """The last block of a plain ``mmpretrain.VisionTransformer`` (or our ``DINOViT``).

    Args:
        backbone (nn.Module): Returns raw tokens (``out_type='raw'``), CLS token first.

    Raises:
        ValueError: If the backbone returns something else than raw tokens.
    """

    def __init__(self, backbone: nn.Module) -> None:
        if backbone.out_type != 'raw':
            raise ValueError(f"the backbone must have out_type='raw', got {backbone.out_type!r}; "
                             'the CLS token and the patch map are both needed')
        # mmpretrain keeps the patch size only as the stride of the patch embedding.
        stride = backbone.patch_embed.projection.stride
        if stride[0] != stride[1]:
            raise ValueError(f'patches must be square, got {tuple(stride)} pixels')
        super().__init__(backbone, stride[0])

    def _encode(self, images: Tensor) -> Sequence[Tensor]:
        tokens = self.module(images)[-1]  # (B, extra + N, C)
        rows, columns = (side // self.patch_size for side in images.shape[2:])
        patches = tokens[:, -rows * columns:].transpose(1, 2)  # (B, N, C) -> (B, C, N)
        return tokens[:, 0], patches.unflatten(2, (rows, columns))
