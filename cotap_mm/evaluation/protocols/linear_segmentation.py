"""Linear segmentation on cached features: a quick probe of a frozen backbone.

The field has several protocols under this name whose figures cannot be compared; the
variant is therefore part of every result's name:

* ``cotap``: 1 x 1 convolution, Adam, logits resized to the label. The paper's protocol,
  https://arxiv.org/abs/2509.09429; also ``configs/downstream/*_linear.py``.
* ``dinov2``: batch norm and 1 x 1 convolution, AdamW, warm-up and linear decay, logits resized to
  the label. DINOv2, https://arxiv.org/abs/2304.07193, and DINOv3.
* ``leopart``: 1 x 1 convolution, SGD, features and masks at 100 x 100, in training and in the
  score. Leopart, https://arxiv.org/abs/2204.13101; NeCo, Franca.

Features are computed once, without augmentation: that makes it quick, and is the difference
to the full protocols. The batch norm uses the statistics of the whole training set, since
the features do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.distributed.collectives import all_reduce_sum, broadcast, rank, world_size
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size
from cotap_mm.evaluation.batches import iter_batches, with_progress
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.evaluation.metrics import confusion_matrix, segmentation_scores


class LinearVariant(NamedTuple):
    """Settings of one protocol.

    Attributes:
        optimizer (type): Of torch.optim.
        options (dict): Its arguments.
        batch_size (int): Images a step, on all ranks together.
        steps (int): Training steps.
        decay (str): ``'constant'``, ``'linear'`` to 0, or ``'step'``: a tenth after 80 %.
        warmup (int): Steps of linear warm-up.
        standardize (bool): Batch norm before the layer.
        map_size (int, optional): Side of features and masks; None for logits resized
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


@watch_classes()
def linear_segmentation(
    encoder: Encoder,
    train: Any,
    val: Any,
    num_classes: int,
    variant: str = 'cotap',
    steps: Optional[int] = None,
    lr: Optional[float] = None,
    train_batch: Optional[int] = None,
    decay: Optional[str] = None,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a linear layer on frozen patch features, and segment with it.

    Memory: the features of all training images in half precision, shared out to the ranks:
    2 C h w bytes an image (ViT-S with filter at 448 px: 1.2 MB), and their labels.

    Args:
        encoder (Encoder): The features to measure.
        train: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``; 255 is ignored.
        val: The same, for the score.
        num_classes (int): Number of classes.
        variant (str): ``'cotap'``, ``'dinov2'`` or ``'leopart'``. Defaults to ``'cotap'``.
        steps (int, optional): Instead of the variant's number of steps.
        lr (float, optional): Instead of its learning rate.
        train_batch (int, optional): Instead of its images a step.
        decay (str, optional): Instead of its schedule: ``'constant'``, ``'linear'`` or ``'step'``.
        image_size (int | tuple, optional): Resize images and training labels to this
            square, or (height, width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.
        seed (int): Of the layer and the order of images. Defaults to 0.

    Returns:
        dict: ``mIoU``, ``IoU`` and ``aAcc`` as :func:`segmentation_scores` gives them, in
        per cent, and ``settings`` (dict: what the layer was trained with).

    Raises:
        ValueError: If an option is out of range, a data set is empty, there are fewer
            training images than ranks, or a label is no class.
    """
    settings = _settings(variant, steps, lr, train_batch, decay)
    if len(train) < world_size() or not len(val):
        raise ValueError(
            f'train and val must hold images, at least one a process, got '
            f'{len(train)} and {len(val)} for {world_size()} processes'
        )
    cached = cache_features(encoder, train, num_classes, image_size, batch_size, settings.map_size)
    head = train_head(cached, num_classes, settings, encoder.device, seed)
    with torch.no_grad():
        confusion = torch.zeros(num_classes, num_classes, dtype=torch.long, device=encoder.device)
        for _, images, labels in iter_batches(val, batch_size, image_size, 'scoring'):
            for features, label in zip(encoder(images).patches, labels):
                if settings.map_size is not None:
                    features, label = _to_map(features, label, settings.map_size)
                logits = _resize(head(features[None]), label.shape)
                confusion += confusion_matrix(
                    logits.argmax(dim=1)[0], label.to(encoder.device), num_classes
                )
    used = dict(
        variant=variant,
        steps=settings.steps,
        train_batch=settings.batch_size,
        optimizer=settings.optimizer.__name__,
        **settings.options,
        decay=settings.decay,
    )
    return dict(segmentation_scores(all_reduce_sum(confusion)), settings=used)


@torch.no_grad()
def cache_features(
    encoder: Encoder,
    dataset: Any,
    num_classes: int,
    image_size: Optional[Size],
    batch_size: int,
    map_size: Optional[int] = None,
) -> list[CachedImage]:
    """Features and labels of this rank's share of a data set, on the CPU.

    Arguments are those of :func:`linear_segmentation`; labels are resized (nearest) to
    ``image_size``, or both to ``map_size``.
    """
    found = []
    for _, images, labels in iter_batches(dataset, batch_size, image_size, 'features'):
        for features, label in zip(encoder(images).patches, labels):
            _check_label(label, num_classes)
            if map_size is not None:
                features, label = _to_map(features, label, map_size)
            elif image_size is not None:
                label = _resize_label(label, images.shape[2:])
            found.append(CachedImage(features.half().cpu(), label.to(torch.uint8).cpu()))
    return found


def train_head(
    cached: Sequence[CachedImage],
    num_classes: int,
    settings: LinearVariant,
    device: torch.device,
    seed: int,
) -> nn.Module:
    """Train the linear layer on cached features.

    All ranks hold the same layer: its gradient is summed over ranks, each of which draws
    from its own images.

    Args:
        cached (sequence): This rank's images, at least one.
        num_classes (int): Number of classes.
        settings (LinearVariant): How to train.
        device (torch.device): Where.
        seed (int): Of initial weights and order.

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


def _settings(
    variant: str,
    steps: Optional[int],
    lr: Optional[float],
    train_batch: Optional[int],
    decay: Optional[str],
) -> LinearVariant:
    if variant not in VARIANTS:
        raise ValueError(f'variant must be one of {", ".join(VARIANTS)}, got {variant!r}')
    found = VARIANTS[variant]
    if decay not in (None, *_DECAYS):
        raise ValueError(f'decay must be one of {", ".join(_DECAYS)}, got {decay!r}')
    for name, value in (('steps', steps), ('lr', lr), ('train_batch', train_batch)):
        if value is not None and not value > 0:
            raise ValueError(f'{name} must be positive, got {value}')
    steps = steps or found.steps
    return found._replace(
        steps=steps,
        warmup=min(found.warmup, steps // 10),
        decay=decay or found.decay,
        batch_size=train_batch or found.batch_size,
        options=dict(found.options, lr=lr or found.options['lr']),
    )


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
    with torch.no_grad():  # as MMSegmentation's heads start
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
    """Sum of the cross-entropy over labelled pixels, and their number."""
    shapes: dict[tuple, list[CachedImage]] = {}
    for image in batch:
        shapes.setdefault((image.features.shape, image.label.shape), []).append(image)
    losses, count = [], torch.zeros((), device=device)
    for (_, size), group in shapes.items():
        features = torch.stack([image.features for image in group]).to(device).float()
        labels = torch.stack([image.label for image in group]).to(device).long()
        logits = _resize(head(features), size)
        losses.append(F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction='sum'))
        count += (labels != IGNORE_LABEL).sum()
    return torch.stack(losses).sum(), count


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode='bilinear', align_corners=False)


def _resize_label(label: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(label[None, None].float(), tuple(size), mode='nearest-exact')[0, 0]


def _to_map(features: Tensor, label: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Features (C, side, side), bilinear, and label (side, side), nearest."""
    size = (side, side)
    return _resize(features[None], size)[0], _resize_label(label, size).to(torch.uint8)


def _check_label(label: Tensor, num_classes: int) -> None:
    wrong = (label != IGNORE_LABEL) & ((label < 0) | (label >= num_classes))
    if wrong.any():
        raise ValueError(
            f'labels must be 0..{num_classes - 1} or {IGNORE_LABEL} (ignored), got '
            f'{int(label[wrong][0])}; check num_classes'
        )
