"""An encoder from a file, without any config."""
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cotap_mm.datasets.image_source import read_image, to_rgb
from cotap_mm.evaluation.encoder import EncoderOutput, ViTEncoder, normalize_images
from cotap_mm.models import CoTAPViT
from cotap_mm.weights import LoadReport, load_pretrained
from cotap_mm.weights.architecture import architecture_of
from cotap_mm.weights.loading import read_in_our_names
from cotap_mm.weights.reading import Checkpoint, read_checkpoint

Picture = Union[str, Path, Image.Image, np.ndarray, Tensor]


class PretrainedEncoder(ViTEncoder):
    """A frozen ViT, with the object-aware filter if its checkpoint has one.

    Attributes:
        network (CoTAPViT): The network, in eval mode.
        report (LoadReport): What was loaded and what was left.
    """

    def __init__(self, network: CoTAPViT, report: LoadReport) -> None:
        super().__init__(network)
        self.network = network
        self.report = report

    def encode(self, images: Union[Picture, Sequence[Picture]],
               size: Optional[Union[int, Tuple[int, int]]] = None) -> EncoderOutput:
        """Features of pictures, with everything done to them that the network expects.

        Args:
            images (path | PIL image | ndarray | Tensor, or a sequence of them): RGB. Arrays
                are uint8 (H, W, 3), tensors uint8 (3, H, W) or a batch (B, 3, H, W).
            size (int | tuple[int, int], optional): Height and width to resize to, needed
                for pictures of different sizes. By default each keeps its own, rounded
                to whole patches.

        Returns:
            EncoderOutput: CLS (B, C) and patch map (B, C, h, w), float32; C is 2d with
            the filter, else d.

        Raises:
            TypeError: If a picture is of another kind, or its pixels are not uint8.
            ValueError: If pictures differ in size and ``size`` is not given.
        """
        if isinstance(images, Tensor) and images.ndim == 4:
            pixels = list(images)
        elif isinstance(images, (list, tuple)):
            pixels = [_pixels(picture) for picture in images]
        else:
            pixels = [_pixels(images)]
        if not pixels:
            raise ValueError('there must be at least one image, got none')
        if size is not None:
            size = (size, size) if isinstance(size, int) else tuple(size)
            pixels = [_resize(picture, size) for picture in pixels]
        shapes = sorted({tuple(picture.shape[1:]) for picture in pixels})
        if len(shapes) > 1:
            raise ValueError(f'images of one batch must have one size, got {shapes[:3]}; pass '
                             'size=..., or encode them one by one')
        return self(normalize_images(torch.stack(pixels)))


def load(checkpoint: Checkpoint, device: Union[str, torch.device] = 'cpu',
         branch: Optional[str] = None, source: str = 'auto', trust: bool = False,
         num_heads: Optional[int] = None) -> PretrainedEncoder:
    """Load a network of any supported source as an encoder.

    ::

        encoder = cotap_mm.load('work_dirs/vits_coco/iter_240000.pth', device='cuda')
        cls, patches = encoder.encode('photo.jpg')   # (1, 2d) and (1, 2d, H, W)

    Args:
        checkpoint (str | Path | dict): File, URL or state dict of CoTAP (ours or released),
            DINO, iBOT, Mugs, Leopart, timm, Hugging Face ViT or MMPretrain.
        device (str | torch.device): Where to compute. Defaults to ``'cpu'``.
        branch (str, optional): ``'student'`` or ``'teacher'`` where a file has both.
        source (str): ``'auto'``, or the origin as a check. Defaults to ``'auto'``.
        trust (bool): Unpickle fully where safe reading is refused. Defaults to False.
        num_heads (int, optional): Attention heads, where the file does not tell.

    Returns:
        PretrainedEncoder: With ``encode(images) -> (cls, patches)``.

    Raises:
        FileNotFoundError: If there is no such file, or a URL cannot be had.
        ValueError: If the file is not understood, or ``num_heads`` is needed.
    """
    network, report = build_network(checkpoint, branch, source, trust, num_heads)
    return PretrainedEncoder(network.to(device), report)


class _Built(NamedTuple):
    network: CoTAPViT
    report: LoadReport


def build_network(checkpoint: Checkpoint, branch: Optional[str] = None, source: str = 'auto',
                  trust: bool = False, num_heads: Optional[int] = None, **options: Any) -> _Built:
    """The network of a checkpoint, in eval mode; arguments as in :func:`load`.

    ``options`` are further arguments of :class:`CoTAPViT`.
    """
    content = read_checkpoint(checkpoint, trust)
    tensors, _, _ = read_in_our_names(content, source, branch)
    meta = content.get('meta')
    arguments = architecture_of(tensors, meta if isinstance(meta, dict) else None, num_heads)
    network = CoTAPViT(**{**arguments, 'out_type': 'raw', **options})
    report = load_pretrained(network, content, source, branch)
    network.eval().requires_grad_(False)
    return _Built(network, report)


def _pixels(picture: Picture) -> Tensor:
    """uint8 RGB pixels (3, H, W)."""
    if isinstance(picture, (str, Path)):
        picture = read_image(str(picture))
    if isinstance(picture, Image.Image):
        picture = to_rgb(picture)
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f'an array must have the shape (H, W, 3), got {picture.shape}')
        return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError('a tensor must have the shape (3, H, W) or (B, 3, H, W), got '
                             f'{tuple(picture.shape)}')
        return picture
    raise TypeError('an image must be a path, a PIL image, an array or a tensor, got '
                    f'{type(picture).__name__}')


def _resize(pixels: Tensor, size: Tuple[int, int]) -> Tensor:
    if pixels.dtype != torch.uint8:
        raise TypeError(f'images must be uint8 pixels 0-255, got {pixels.dtype}')
    return torch.nn.functional.interpolate(
        pixels[None], size, mode='bilinear', align_corners=False, antialias=True)[0]

