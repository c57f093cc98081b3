"""Trace the memory of a training step on tensors that have shapes, but no data.

The model's own code runs forward and backward on PyTorch's fake tensors, so registers, gated MLPs,
frozen blocks, activation checkpointing and whatever else a network has need no formula. All blocks
of a ViT have the same shapes, so only a few of them run.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Optional

import torch
from mmpretrain.models.utils.attention import scaled_dot_product_attention_pyimpl
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cotap_mm.distributed.collectives import without_other_ranks

_KEPT = 2  # trained blocks that run; the others cost as much as the first of them


#: Images of the traced batch: a prime, so that a tensor scales with the batch if and only if the
#: number of its elements is a multiple.
_BATCH = 1009


@dataclass(frozen=True)
class CropCounts:
    """Crops of an image.

    Attributes:
        global_size (int): Side of a global crop in pixels.
        local_size (int): Side of a local crop in pixels.
        num_global (int): G, number of global crops.
        num_local (int): L, number of local crops.
    """

    global_size: int
    local_size: int
    num_global: int
    num_local: int


@dataclass(frozen=True)
class Bytes:
    """Memory that depends on the number of images.

    Attributes:
        constant (float): Bytes for any number of images.
        per_image (float): Additional bytes for each image of the batch.
    """

    constant: float = 0.0
    per_image: float = 0.0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.constant + other.constant, self.per_image + other.per_image)

    def __mul__(self, factor: float) -> Bytes:
        return Bytes(factor * self.constant, factor * self.per_image)

    def of(self, batch: float) -> float:
        """Bytes with ``batch`` images."""
        return self.constant + batch * self.per_image


class MemoryMeter(TorchDispatchMode):
    """Count the bytes of the tensors that are alive.

    Args:
        known (iterable): Tensors that are not counted, such as parameters.
        batch (int): Number of images, to tell which tensors scale with it. Defaults to 1.

    """

    def __init__(self, known: Iterable[Tensor] = (), batch: int = 1) -> None:
        super().__init__()
        self.batch = batch
        self._bytes = [0, 0]  # constant, scaled
        self.reset()
        self._alive: dict[int, Any] = {id(x.untyped_storage()): x.untyped_storage() for x in known}

    @property
    def now(self) -> Bytes:
        """Tensors that were created inside of the context and are alive."""
        constant, scaled = self._bytes
        return Bytes(constant, scaled / self.batch)

    @property
    def peak(self) -> Bytes:
        """Value of :attr:`now` when it was largest, since :meth:`reset`."""
        constant, scaled = self._peak
        return Bytes(constant, scaled / self.batch)

    def reset(self) -> None:
        """Start a new peak."""
        self._peak = list(self._bytes)

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                self._add(value.untyped_storage(), value.element_size())
        return result

    def _add(self, storage: torch.UntypedStorage, element_size: int) -> None:
        key = id(storage)
        if key in self._alive:
            return
        size = storage.nbytes()
        scaled = size // element_size % self.batch == 0
        self._alive[key] = weakref.finalize(storage, self._drop, key, size, scaled)
        self._bytes[scaled] += size
        if sum(self._bytes) > sum(self._peak):
            self.reset()

    def _drop(self, key: int, size: int, scaled: bool) -> None:
        del self._alive[key]
        self._bytes[scaled] -= size


def trace_step(model: Any, crops: CropCounts, half: bool) -> tuple[Bytes, Bytes]:
    """Trace the memory of a step, without weights, gradients, optimizer state and buffers.

    Args:
        model (CoTAP): On any device; changed, and of no use afterwards.
        crops (CropCounts): Crops of each image.
        half (bool): Whether the networks run in half precision.

    Returns:
        tuple[Bytes, Bytes]: Peak of the forward pass, and of the backward pass into gradients
        that exist already.
    """
    model.train()
    with FakeTensorMode(), without_other_ranks():
        _replace_tensors(model)
        extra = _keep_few_blocks(model)
        _replace_parts(model, crops.global_size // model.backbone.patch_size, half)
        known = [*model.parameters(), *model.buffers()]
        known += [param.grad for param in model.parameters() if param.grad is not None]
        with MemoryMeter(known, _BATCH) as meter, _recorded_calls(model.backbone) as calls:
            views = {branch: _views(crops, 2 * _BATCH) for branch in ('patch', 'cls')}
            with _autocast(half):
                losses = model.loss(views)
                total = torch.stack([x for name, x in losses.items() if 'loss_' in name]).sum()
            forward, recorded = meter.peak, list(calls)
            del losses
            meter.reset()
            total.backward()
            backward = meter.peak
            del total, views
            if extra:
                inside, after = _bytes_of_block(model.backbone, recorded, meter, half)
                forward, backward = forward + inside * extra, backward + after * extra
    return forward, backward


def _replace_tensors(model: nn.Module) -> None:
    """Replace parameters and buffers by fake ones on the CPU, and add gradients."""
    for module in model.modules():
        for name, param in module._parameters.items():
            if param is not None:
                fake = nn.Parameter(
                    torch.empty(param.shape, dtype=param.dtype), param.requires_grad
                )
                fake.grad = torch.empty_like(fake) if param.requires_grad else None
                module._parameters[name] = fake
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _replace_parts(model: Any, grid: int, half: bool) -> None:
    """Replace what reads values, or depends on the device, by code of the same memory."""
    model.pairs.pool_sizes = tuple(min(size, grid) for size in model.pairs.pool_sizes)
    for queue in (model.patch_queue, model.cls_queue, model.template_bank):
        queue._was_full = True
    model.template_bank._had_started = True
    if 'patch_ranking' in model.losses:
        model.losses['patch_ranking'] = _Ranking()
    for module in model.modules():
        attend = getattr(module, 'scaled_dot_product_attention', None)
        if attend is not None and attend is not scaled_dot_product_attention_pyimpl:
            module.scaled_dot_product_attention = partial(_attend, half)


class _Ranking(nn.Module):
    """Stand-in for the ranking loss, which needs O(P) memory for P pairs."""

    def forward(self, pred: Tensor, target: Tensor, is_neighbor: Tensor) -> Tensor:
        return (pred * target).mean()


class _FusedAttention(torch.autograd.Function):
    """Stand-in for the fused kernels, which save inputs, output and a number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        read = torch.empty_like(query)
        log_sum = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, read, log_sum)
        return read

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.empty_like, ctx.saved_tensors[:3]))


def _attend(
    half: bool, query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0
) -> Tensor:
    if half:
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    return _FusedAttention.apply(query, key, value)


def _keep_few_blocks(model: Any) -> int:
    """Remove blocks that cost as much as others; returns the number of trained ones among them."""
    blocks = model.backbone.layers
    trained = [any(p.requires_grad for p in block.parameters()) for block in blocks]
    kept = [index for index, is_trained in enumerate(trained) if is_trained][-_KEPT:]
    frozen = [index for index, is_trained in enumerate(trained) if not is_trained]
    chosen = sorted(kept + frozen[-max(1, _KEPT - len(kept)) :])
    for network in (model, model.teacher):
        layers = network.backbone.layers
        network.backbone.layers = nn.ModuleList([layers[index] for index in chosen])
    return sum(trained) - len(kept)


@contextmanager
def _recorded_calls(backbone: Any) -> Any:
    """Record shape and type of the tokens that enter the block before the last one, by call."""
    calls: list[tuple] = []
    run_block = backbone.run_block
    watched = backbone.layers[-_KEPT:][0]

    def record(block: nn.Module, tokens: Tensor, rotation: Any = None) -> Tensor:
        if block is watched:
            calls.append((tokens.shape, tokens.dtype, rotation))
        return run_block(block, tokens, rotation)

    backbone.run_block = record
    try:
        yield calls
    finally:
        backbone.run_block = run_block


def _bytes_of_block(
    backbone: Any, calls: list[tuple], meter: MemoryMeter, half: bool
) -> tuple[Bytes, Bytes]:
    """Bytes that a trained block keeps for the backward pass, inside of autocast and after it."""
    inputs = [torch.empty(shape, dtype=dtype).requires_grad_() for shape, dtype, _ in calls]
    before = meter.now
    with _autocast(half):
        outputs = [
            backbone.run_block(backbone.layers[-_KEPT:][0], tokens, rotation)
            for tokens, (_, _, rotation) in zip(inputs, calls)
        ]
        inside = meter.now + before * -1
    after = meter.now + before * -1
    del outputs
    return inside, after


def _autocast(half: bool) -> torch.autocast:
    return torch.autocast('cpu', dtype=torch.bfloat16, enabled=half)


def _views(crops: CropCounts, images: int) -> dict[str, Tensor]:
    """Views of a branch: images and positives."""
    count = crops.num_global + crops.num_local
    large = (images, crops.num_global, 3, crops.global_size, crops.global_size)
    return dict(
        student_global=torch.empty(large),
        teacher_global=torch.empty(large),
        student_local=torch.empty(images, crops.num_local, 3, crops.local_size, crops.local_size),
        common_global=torch.empty(images, crops.num_global, count, 4),
        common_other=torch.empty(images, count, crops.num_global, 4),
    )
