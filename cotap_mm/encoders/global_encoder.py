"""Encoder of the neighbor search: the CLS token of a frozen ViT."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from cotap_mm.datasets.neighbors.encoder import GlobalFeatureEncoder
from cotap_mm.files.atomic_write import checksum
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import DetectedCheckpoint, load_pretrained


class GlobalEncoder(GlobalFeatureEncoder):
    """Compute the CLS token of the last block of a frozen ViT.

    It implements :class:`GlobalFeatureEncoder`, the contract of the neighbor search.

    Args:
        backbone (dict): Config of a :class:`cotap_mm.models.DINOViT`.
        checkpoint (str | DetectedCheckpoint, optional): File or URL of weights. Defaults to
            None, random weights (seed 0).
        image_size (int): Side of the square images in pixels. Defaults to 224.
        device (str): Device of the network. Defaults to ``'cpu'``.
        source (str): See :func:`cotap_mm.weights.load_pretrained`. Defaults to ``'auto'``.
        trust (bool): See :func:`cotap_mm.weights.load_pretrained`. Defaults to False.
        resize_patches (bool): See :func:`cotap_mm.weights.load_pretrained`. Defaults to False.

    Raises:
        FileNotFoundError: If the checkpoint does not exist, or the download fails.
        ValueError: If the checkpoint does not fit, or ``image_size`` is not a multiple of the
            patch size.
    """

    def __init__(
        self,
        backbone: dict,
        checkpoint: Optional[Union[str, DetectedCheckpoint]] = None,
        image_size: int = 224,
        device: str = 'cpu',
        source: str = 'auto',
        trust: bool = False,
        resize_patches: bool = False,
    ) -> None:
        patch = backbone.get('patch_size', 16)
        # A remainder of pixels would be ignored.
        if isinstance(patch, int) and isinstance(image_size, int) and image_size % patch:
            lower = image_size // patch * patch
            raise ValueError(
                'image_size (--image-size) must be a multiple of the patch size, '
                f'{patch}, got {image_size}; use '
                f'{f"{lower} or " if lower else ""}{lower + patch}'
            )
        self.image_size = image_size
        self.device = device
        self.identity = identity_of(backbone, checkpoint, image_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = build(MODELS, backbone)
        if checkpoint:
            report = load_pretrained(
                self.model, checkpoint, source, trust=trust, resize_patches=resize_patches
            )
            print_log(f'neighbor features from {checkpoint}: {report}', logger='current')
        else:
            print_log(
                'neighbor features come from a network with random weights, which captures '
                'little more than color; give a checkpoint for real use',
                logger='current',
                level=logging.WARNING,
            )
        self.model.to(device).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute features (B, d) of normalized images (B, 3, s, s)."""
        return self.model.forward_tokens(images)[1][:, 0]


def identity_of(
    backbone: dict, checkpoint: Optional[Union[str, DetectedCheckpoint]], image_size: int
) -> str:
    """Serialize everything that global features depend on besides the images.

    The content of a checkpoint file is hashed here, which reads the file once more.

    Args:
        backbone (dict): Config of the network.
        checkpoint (str | DetectedCheckpoint, optional): Path or URL of the weights.
        image_size (int): Side of the images in pixels.

    Returns:
        str: Equal for equal features.
    """
    checkpoint = None if checkpoint is None else str(checkpoint)
    irrelevant = (
        *('with_cp', 'fused_attention', 'channels_last', 'init_cfg'),
        *('frozen_stages', 'lora'),  # they change the training, not the initial network
    )
    network = {key: value for key, value in backbone.items() if key not in irrelevant}
    if 'type' in network:
        network['type'] = str(network['type']).replace('LoRAViT', 'DINOViT')
    weights = None
    if checkpoint and Path(checkpoint).is_file():
        weights = checksum(checkpoint)
    return json.dumps([network, checkpoint, weights, image_size], sort_keys=True, default=str)
