"""Estimate operations and memory of a training step, without running one.

Operations follow from the layers of the ViT; for ViT-S they agree with the measured number. Memory
follows from the shapes of all tensors (:mod:`.trace`); what the allocator and the libraries add is
a factor and a constant. Nothing of this was compared with a GPU.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from cotap_mm.datasets.transforms import MultiCrop
from cotap_mm.registry import MODELS, build, default_of

from .trace import Bytes, CropCounts, trace_step

# The step of ViT-S/16 with 2 images per branch, 2 x 224 and 4 x 96 px: docs/benchmarks.md.
_HEADS_AND_REST = 860 / 744  # measured operations, relative to those of the ViTs
_RECOMPUTED = {False: 1.0, 'mlp': 1.07, True: 1.15}  # option with_cp: operations
_LIBRARIES = {'cpu': 0.9e9, 'cuda': 0.7e9}  # Python and libraries; CUDA and its libraries
_MARGIN = {'cpu': 1.1, 'cuda': 1.15}  # freed memory that the allocator retains
_MANY = 2**16
#: Images that a step reads for each image of the batch: with a neighbor, for both branches.
IMAGES_READ = 4


@dataclass(frozen=True)
class Cost:
    """Cost of a training step of a config.

    Attributes:
        parameters (int): Number of trainable parameters.
        weight_bytes (float): Weights of student and teacher, and queues.
        gradient_bytes (float): Gradients of the trainable parameters.
        optimizer_bytes (float): State of the optimizer.
        step (tuple[Bytes, Bytes]): Peak of the forward pass, and of the backward pass, without the
            above.
        flops_per_image (float): Operations for each image of the batch.
        accumulates (bool): Whether gradients of earlier steps exist in the forward pass.
        device (str): 'cpu' or 'cuda'.
        shardable (tuple[int, int, int, int]): Numbers of all and of the trainable parameters of the
            student that FSDP shards, of those that are gathered during a whole step, and of those
            that are gathered at the same time while they are used.
    """

    parameters: int
    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    step: tuple[Bytes, Bytes]
    flops_per_image: float
    accumulates: bool
    device: str
    shardable: tuple[int, int, int, int]

    @property
    def fixed_bytes(self) -> float:
        """Memory on the device without images."""
        return self.memory(0)

    @property
    def bytes_per_image(self) -> float:
        """Additional memory for each image of a large batch."""
        return _MARGIN[self.device] * max(phase.per_image for phase in self.step)

    def step_bytes(self, batch: int) -> float:
        """Bytes of the activations, and of whatever else a step with ``batch`` images computes."""
        return max(phase.of(batch) for phase in self.step)

    def memory(self, batch: int) -> float:
        """Bytes that a step with ``batch`` images needs on one device."""
        step = self.step_bytes(batch)
        # The backward pass frees activations while it makes gradients.
        both = (step, self.gradient_bytes)
        needed = self.weight_bytes + self.optimizer_bytes
        needed += sum(both) if self.accumulates else max(both)
        return _MARGIN[self.device] * needed + _LIBRARIES[self.device]

    def largest_batch(self, memory: float) -> int:
        """Largest batch that fits into ``memory`` bytes; 0 if none does."""
        fits, too_large = 0, 1
        while too_large < _MANY and self.memory(too_large) <= memory:
            fits, too_large = too_large, 2 * too_large
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            fits, too_large = (
                (middle, too_large) if self.memory(middle) <= memory else (fits, middle)
            )
        return fits

    def replicated(self) -> Cost:
        """Cost on each of several GPUs with DDP, which has a copy of all gradients."""
        return replace(self, weight_bytes=self.weight_bytes + self.gradient_bytes)

    def sharded(self, gpus: int, version: int = 2) -> Cost:
        """Cost on each of ``gpus`` GPUs with FSDP.

        Args:
            gpus (int): Number of GPUs.
            version (int): Version of the strategy; 1 does not shard the teacher. Defaults to 2.
        """
        weights, trainable, kept, used = self.shardable
        networks = 1 if version == 1 else 2
        saved = 1 - 1 / gpus
        moments = self.optimizer_bytes / max(self.parameters, 1)
        return replace(
            self,
            weight_bytes=self.weight_bytes
            - 4 * saved * networks * weights
            + 4 * (networks * kept + used),
            gradient_bytes=self.gradient_bytes - 4 * saved * trainable + 4 * (kept + used),
            optimizer_bytes=self.optimizer_bytes - moments * saved * trainable,
        )


def estimate_cost(config: Config, on_gpu: bool) -> Cost:
    """Estimate the cost of a step.

    Args:
        config (Config): Config of a pre-training.
        on_gpu (bool): Whether it runs on a GPU, by default in half precision.

    Returns:
        Cost: The estimate, for one process.
    """
    options = copy.deepcopy(config.model.to_dict())
    options['init_cfg'] = None
    network, step = _look(pickle.dumps(options), crop_counts(config), _is_half(config, on_gpu))
    optimizer = config.optim_wrapper.optimizer
    moments = float(bool(optimizer.get('momentum'))) if optimizer.type == 'SGD' else 2.0
    counters = 0 if optimizer.type == 'SGD' else 4 * network.tensors
    return Cost(
        parameters=network.trainable,
        weight_bytes=network.weight_bytes,
        gradient_bytes=4 * network.trainable,
        optimizer_bytes=4 * moments * network.trainable + counters,
        step=step,
        flops_per_image=network.flops
        * _HEADS_AND_REST
        * _RECOMPUTED[config.model.backbone.get('with_cp', False)],
        accumulates=config.optim_wrapper.get('accumulative_counts', 1) > 1,
        device='cuda' if on_gpu else 'cpu',
        shardable=network.shardable,
    )


@dataclass(frozen=True)
class _Network:
    trainable: int
    tensors: int  # number of trainable ones
    weight_bytes: int
    shardable: tuple[int, int, int, int]
    flops: float


@lru_cache(maxsize=64)
def _look(options: bytes, crops: CropCounts, half: bool) -> tuple[_Network, tuple[Bytes, Bytes]]:
    """Build a network without data, count what it consists of, and trace a step."""
    with torch.device('meta'):
        model = build(MODELS, pickle.loads(options))
    trainable = [p.numel() for p in model.parameters() if p.requires_grad]
    tensors = [*model.parameters(), *model.buffers()]
    network = _Network(
        sum(trainable),
        len(trainable),
        sum(x.numel() * x.element_size() for x in tensors),
        _shardable(model),
        _flops(model.backbone, crops),
    )
    return network, trace_step(model, crops, half)


def _shardable(model: Any) -> tuple[int, int, int, int]:
    """Parameters in the parts that :class:`CoTAPFSDPStrategy` shards: :attr:`Cost.shardable`."""
    units = [*model.backbone.layers[:-1], *model.head.children()]
    sizes = [_count(unit.parameters()) for unit in units]
    parts = [*model.backbone.parameters(), *model.head.parameters()]
    # The rest and the last block stay gathered; the next unit is gathered while one is used.
    kept, used = _count(parts) - sum(sizes), 2 * max(sizes)
    return _count(parts), _count(p for p in parts if p.requires_grad), kept, used


def _count(params: Iterable[nn.Parameter]) -> int:
    return sum(param.numel() for param in params)


def _is_half(config: Config, on_gpu: bool) -> bool:
    """Whether the networks run in half precision."""
    kind = str(config.optim_wrapper.get('type', ''))
    dtype = config.optim_wrapper.get('dtype', 'auto')
    if 'MixedPrecision' in kind and dtype == 'auto':
        return on_gpu
    return ('MixedPrecision' in kind or 'Amp' in kind) and dtype != 'float32'


def _flops(backbone: Any, crops: CropCounts) -> float:
    """Operations of student and teacher for an image of the batch, without recomputation."""
    large, trained_large = vit_flops(backbone, crops.global_size)
    small, trained_small = vit_flops(backbone, crops.local_size)
    # The backward pass costs twice the forward pass; the teacher has none.
    student = crops.num_global * (large + 2 * trained_large)
    student += crops.num_local * (small + 2 * trained_small)
    return IMAGES_READ * (student + crops.num_global * large)


def vit_flops(backbone: Any, size: int) -> tuple[float, float]:
    """Operations of a forward pass of a ViT for one crop, a multiply-add being two.

    Args:
        backbone (DINOViT): The ViT, on any device.
        size (int): Side of the crop in pixels.

    Returns:
        tuple[float, float]: Of all layers, 9.2e9 for ViT-S/16 at 224 px, and of those that are
        trained.
    """
    patches = (size // backbone.patch_size) ** 2
    tokens = backbone.num_prefix + patches
    total = trained = 0.0
    for part in (backbone.patch_embed, *backbone.layers):
        matrices = [param for param in part.parameters() if param.ndim > 1]
        if part is backbone.patch_embed:
            flops = 2.0 * patches * _count(matrices)
        else:
            flops = 2.0 * tokens * _count(matrices) + 4.0 * tokens**2 * backbone.embed_dims
        total += flops
        trained += flops if any(param.requires_grad for param in matrices) else 0.0
    return total, trained


def crop_counts(config: Config) -> CropCounts:
    """Number and sizes of the crops of a config."""
    crops = crop_options(config)
    names = ('global_size', 'local_size', 'num_global', 'num_local')
    return CropCounts(*(crops.get(name, default_of(MultiCrop, name)) for name in names))


def crop_options(config: Config) -> dict[str, Any]:
    """Options of the crops of a config, as a plain dict."""
    crops = config.train_dataloader.dataset.get('crops') or {}
    return {key: value for key, value in dict(crops).items() if key != 'type'}
