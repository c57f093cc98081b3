"""Estimate operations and memory of a training step, without running one.

Operations follow from the layers of the ViT; for ViT-S they agree with the measured number. The
memory for the backward pass is scaled from a measurement of ViT-S in float32 on a CPU
(docs/benchmarks.md). Nothing of this was compared with a GPU.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config

from cotap_mm.registry import MODELS, build, option_of

# The step of ViT-S/16 with 2 images per branch, 2 x 224 and 4 x 96 px: docs/benchmarks.md.
_HEADS_AND_REST = 860 / 744  # measured operations, relative to those of the ViTs
_SAVED_BYTES = 1378e6 / 2  # saved for the backward pass for each image of the batch
_SAVED_TOKENS = 8 * 197 + 16 * 37  # tokens of the student for each image of the batch
_SAVED_WIDTH_DEPTH = 384 * 12
#: Option with_cp of the backbone -> share of these bytes that remains, and operations.
_CHECKPOINTING = {False: (1.0, 1.0), 'mlp': (0.57, 1.07), True: (0.47, 1.15)}
_HALF = 0.55  # memory in half precision, with parts that stay in float32
_CONTEXT = 0.7e9  # CUDA and its libraries
_MARGIN = 1.15  # fragmentation
#: Images that a step reads for each image of the batch: with a neighbor, for both branches.
IMAGES_READ = 4


@dataclass
class Cost:
    """Cost of a training step of a config.

    Attributes:
        parameters (int): Number of trainable parameters.
        fixed_bytes (float): Memory on the device without images: networks, gradients, optimizer
            state and queues.
        bytes_per_image (float): Additional memory for each image of the batch.
        flops_per_image (float): Operations for each image of the batch.
    """

    parameters: int
    fixed_bytes: float
    bytes_per_image: float
    flops_per_image: float

    def memory(self, batch: int) -> float:
        """Bytes that a step with ``batch`` images needs on one device."""
        return self.fixed_bytes + batch * self.bytes_per_image

    def largest_batch(self, memory: float) -> int:
        """Largest batch that fits into ``memory`` bytes; 0 if none does."""
        return max(int((memory - self.fixed_bytes) / self.bytes_per_image), 0)


def estimate_cost(config: Config, on_gpu: bool) -> Cost:
    """Estimate the cost of a step.

    Args:
        config (Config): Config of a pre-training.
        on_gpu (bool): Whether it runs on a GPU, in half precision.

    Returns:
        Cost: The estimate.
    """
    options = copy.deepcopy(config.model.to_dict())
    options['init_cfg'] = None
    with torch.device('meta'):  # shapes only
        model = build(MODELS, options)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    backbone = model.backbone
    patch = option_of(MODELS, config.model.backbone, 'patch_size')
    width, depth = int(backbone.embed_dims), len(backbone.layers)
    crops = config.train_dataloader.dataset.get('crops') or {}
    sizes = [crops.get('global_size', 224), crops.get('local_size', 96)]
    counts = [4 * crops.get('num_global', 2), 4 * crops.get('num_local', 4)]

    kept, extra = _CHECKPOINTING[config.model.backbone.get('with_cp', False)]
    tokens = sum(count * tokens_of(size, patch) for count, size in zip(counts, sizes))
    saved = _SAVED_BYTES * tokens / _SAVED_TOKENS * width * depth / _SAVED_WIDTH_DEPTH
    forward = [count * vit_flops(size, patch, width, depth) for count, size in zip(counts, sizes)]
    # The student runs forward and backward, twice the cost; the teacher forward on global crops.
    flops = 3 * sum(forward) + forward[0]
    return Cost(
        parameters=trainable,
        # Weights, gradients and two moments of AdamW; the teacher; the queues.
        fixed_bytes=_MARGIN * (16 * trainable + 4 * frozen + buffers) + _CONTEXT,
        bytes_per_image=_MARGIN * saved * kept * (_HALF if on_gpu else 1.0),
        flops_per_image=flops * _HEADS_AND_REST * extra,
    )


def tokens_of(size: int, patch: int) -> int:
    """Tokens of a square crop, with CLS."""
    return (size // patch) ** 2 + 1


def vit_flops(size: int, patch: int, width: int, depth: int) -> float:
    """Operations of a ViT for one crop, a multiply-add being two.

    Args:
        size (int): Side of the crop in pixels.
        patch (int): Side of a patch in pixels.
        width (int): Number of channels.
        depth (int): Number of blocks, with MLPs of four times the width.

    Returns:
        float: 9.2e9 for ViT-S/16 at 224 px.
    """
    tokens = tokens_of(size, patch)
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    return depth * block + 2 * (tokens - 1) * 3 * patch**2 * width


def crop_options(config: Config) -> dict[str, Any]:
    """Options of the crops of a config, as a plain dict."""
    crops = config.train_dataloader.dataset.get('crops') or {}
    return {key: value for key, value in dict(crops).items() if key != 'type'}
