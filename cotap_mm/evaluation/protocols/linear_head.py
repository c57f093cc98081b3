"""Linear layer on cached patch features: its published training recipes, and the training.

* ``cotap``: 1 x 1 convolution, Adam, logits resized to the label. The paper's protocol,
  https://arxiv.org/abs/2509.09429; also ``configs/downstream/*_linear.py``.
* ``dinov2``: batch norm and 1 x 1 convolution, AdamW, warm-up and linear decay, logits resized to
  the label. DINOv2, https://arxiv.org/abs/2304.07193, and DINOv3.
* ``leopart``: 1 x 1 convolution, SGD, features and masks at 100 x 100, in training and in the
  score. Leopart, https://arxiv.org/abs/2204.13101; NeCo, Franca.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.distributed.collectives import all_reduce_sum, broadcast, rank, world_size
from cotap_mm.evaluation.batches import with_progress
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL


class LinearVariant(NamedTuple):
    """Training settings of one variant.

    Attributes:
        optimizer (type): Class of torch.optim.
        options (dict): Its arguments.
        batch_size (int): Images per step, over all ranks.
        steps (int): Training steps.
        decay (str): ``'constant'``, ``'linear'`` (to 0) or ``'step'`` (to a tenth after 80 %).
        warmup (int): Steps of linear warm-up.
        standardize (bool): Whether a batch norm precedes the layer.
        map_size (int, optional): Side of features and masks; None to resize logits
            to the label.
    """

    optimizer: Any
    options: dict[str, float]
    batch_size: int
    steps: int
    decay: str = 'constant'
    warmup: int = 0
    standardize: bool = False
    map_size: Optional[int] = None


VARIANTS = {
    'cotap': LinearVariant(torch.optim.Adam, dict(lr=3e-3), 128, 782),
    'dinov2': LinearVariant(
        torch.optim.AdamW,
        dict(lr=1e-3, weight_decay=1e-3),
        16,
        40_000,
        'linear',
        1500,
        standardize=True,
    ),
    'leopart': LinearVariant(
        torch.optim.SGD,
        dict(lr=0.01, momentum=0.9, weight_decay=1e-4),
        60,
        4400,
        'step',
        map_size=100,
    ),
}
_DECAYS = ('constant', 'linear', 'step')


class CachedImage(NamedTuple):
    """Features (C, h, w), float16, and label (H, W), uint8, of one image."""

    features: Tensor
    label: Tensor


def linear_settings(
    variant: str,
    steps: Optional[int],
    lr: Optional[float],
    train_batch: Optional[int],
    decay: Optional[str],
) -> LinearVariant:
    """Settings of a variant, with the options that are not None replaced.

    Raises:
        ValueError: If the variant is unknown or an option is out of range.
    """
    if variant not in VARIANTS:
        raise ValueError(f'variant must be one of {", ".join(VARIANTS)}, got {variant!r}')
    defaults = VARIANTS[variant]
    if decay not in (None, *_DECAYS):
        raise ValueError(f'decay must be one of {", ".join(_DECAYS)}, got {decay!r}')
    for name, value in (('steps', steps), ('lr', lr), ('train_batch', train_batch)):
        if value is not None and not value > 0:
            raise ValueError(f'{name} must be positive, got {value}')
    steps = steps or defaults.steps
    return defaults._replace(
        steps=steps,
        warmup=min(defaults.warmup, steps // 10),
        decay=decay or defaults.decay,
        batch_size=train_batch or defaults.batch_size,
        options=dict(defaults.options, lr=lr or defaults.options['lr']),
    )


def train_head(
    cached: Sequence[CachedImage],
    num_classes: int,
    settings: LinearVariant,
    device: torch.device,
    seed: int,
) -> nn.Module:
    """Train the linear layer on cached features.

    All ranks hold the same layer: its gradient is summed over ranks, each of which samples
    from its own images.

    Args:
        cached (sequence): Images of this rank, at least one.
        num_classes (int): Number of classes.
        settings (LinearVariant): Optimizer and schedule.
        device (torch.device): Device of the layer.
        seed (int): Seed of the initial weights and the order of images.

    Returns:
        nn.Module: Features (B, C, h, w) -> logits (B, num_classes, h, w).
    """
    head = _new_head(cached, num_classes, settings.standardize, seed).to(device)
    optimizer = settings.optimizer(head[-1].parameters(), **settings.options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    order = _endless_order(len(cached), torch.Generator().manual_seed(seed * 1009 + rank()))
    local = -(-settings.batch_size // world_size())
    for _ in with_progress(range(settings.steps), 'linear layer'):
        loss, count = _loss(head, [cached[next(order)] for _ in range(local)], device)
        total = all_reduce_sum(count.clone())
        optimizer.zero_grad()
        (loss / total.clamp_min(1)).backward()
        for parameter in head[-1].parameters():
            all_reduce_sum(parameter.grad)
        optimizer.step()
        schedule.step()
    return head.eval()


def _rate(step: int, settings: LinearVariant) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.decay == 'linear':
        return 1 - (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.1 if settings.decay == 'step' and step >= 0.8 * settings.steps else 1.0


def _new_head(
    cached: Sequence[CachedImage], num_classes: int, standardize: bool, seed: int
) -> nn.Sequential:
    width = cached[0].features.shape[0]
    norm: nn.Module = nn.Identity()
    if standardize:
        sums = torch.zeros(3, width, dtype=torch.double)
        for features, _ in cached:
            rows = features.double().flatten(1)  # (C, N)
            sums += torch.stack(
                [
                    rows.sum(1),
                    rows.square().sum(1),
                    torch.full((width,), float(rows.shape[1])).double(),
                ]
            )
        mean, square, count = all_reduce_sum(sums)
        norm = nn.BatchNorm2d(width, affine=False).eval()
        norm.running_mean.copy_(mean / count)
        norm.running_var.copy_(square / count - (mean / count) ** 2)
    layer = nn.Conv2d(width, num_classes, 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # same initialization as MMSegmentation's heads
        layer.weight.normal_(0, 0.01, generator=generator)
        layer.bias.zero_()
        broadcast(layer.weight)
    return nn.Sequential(norm, layer)


def _endless_order(count: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _loss(
    head: nn.Module, batch: Sequence[CachedImage], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropy over labeled pixels, and the number of these pixels."""
    shapes: dict[tuple, list[CachedImage]] = {}
    for image in batch:
        shapes.setdefault((image.features.shape, image.label.shape), []).append(image)
    losses, count = [], torch.zeros((), device=device)
    for (_, size), group in shapes.items():
        features = torch.stack([image.features for image in group]).to(device).float()
        labels = torch.stack([image.label for image in group]).to(device).long()
        logits = resize_maps(head(features), size)
        losses.append(F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction='sum'))
        count += (labels != IGNORE_LABEL).sum()
    return torch.stack(losses).sum(), count


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly to ``size`` (H, W)."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode='bilinear', align_corners=False)
