"""Global features for the neighbor search: the CLS token of a frozen ViT."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Optional

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from cotap_mm.files.atomic_write import checksum
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import load_pretrained


class GlobalEncoder:
    """Frozen ViT: images -> CLS token of its last block.

    Args:
        backbone (dict): Config of a :class:`cotap_mm.models.DINOViT`.
        checkpoint (str, optional): File or URL of weights; random (seed 0) without.
        image_size (int): Side of the images it is given, in pixels. Defaults to 224.
        device (str): Where it runs. Defaults to ``'cpu'``.
        source (str): See :func:`cotap_mm.weights.load_pretrained`.
        trust (bool): Likewise.

    Raises:
        FileNotFoundError: If the checkpoint cannot be had.
        ValueError: If it does not fit, or ``image_size`` is not a multiple of the patch size.
    """

    def __init__(
        self,
        backbone: dict,
        checkpoint: Optional[str] = None,
        image_size: int = 224,
        device: str = 'cpu',
        source: str = 'auto',
        trust: bool = False,
    ) -> None:
        patch = backbone.get('patch_size', 16)
        # The last pixels would be ignored.
        if isinstance(patch, int) and isinstance(image_size, int) and image_size % patch:
            lower = image_size // patch * patch
            raise ValueError(
                f'image_size (--image-size) must be a multiple of the patch size, '
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
            report = load_pretrained(self.model, checkpoint, source=source, trust=trust)
            print_log(f'neighbour features from {checkpoint}: {report}', logger='current')
        else:
            print_log(
                'neighbour features come from a random network, which sees little more than '
                'colour; give a checkpoint for real use',
                logger='current',
                level=logging.WARNING,
            )
        self.model.to(device).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, s, s) -> features (B, d)."""
        return self.model.forward_tokens(images)[1][:, 0]


def identity_of(backbone: dict, checkpoint: Optional[str], image_size: int) -> str:
    """What global features depend on besides the images: network, weights, size.

    Args:
        backbone (dict): Config of the network.
        checkpoint (str, optional): Of a file, the content counts.
        image_size (int): In pixels.

    Returns:
        str: Equal for equal features.
    """
    not_theirs = ('with_cp', 'fused_attention', 'channels_last', 'init_cfg')
    network = {key: value for key, value in backbone.items() if key not in not_theirs}
    weights = None
    if checkpoint and Path(checkpoint).is_file():
        weights = checksum(checkpoint)
    return json.dumps([network, checkpoint, weights, image_size], sort_keys=True, default=str)
