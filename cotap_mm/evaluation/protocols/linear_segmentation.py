"""Linear segmentation on cached features: a quick probe of a frozen backbone.

Several protocols have this name, and their results are not comparable. The variant is therefore
part of the name of each result; the variants are described in ``linear_head.py``.

Features are computed once, without augmentation, which is fast and is the difference from the
full protocols. The batch norm uses the statistics of the whole training set, since the features
do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum, world_size
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.label_files import check_label_range
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.metrics import best_class, confusion_matrix, segmentation_scores
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments

from .linear_head import CachedImage, linear_settings, resize_maps, train_head


@accept_separate_arguments
@watch_classes()
def linear_segmentation(
    encoder: Encoder,
    train: LabeledSet,
    val: LabeledSet,
    variant: str = 'cotap',
    steps: Optional[int] = None,
    lr: Optional[float] = None,
    train_batch: Optional[int] = None,
    decay: Optional[str] = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a linear layer on frozen patch features, and segment with it.

    Memory: the features of all training images in half precision, sharded across ranks:
    2 C h w bytes per image (ViT-S with filter at 448 px: 1.2 MB), and their labels.

    Args:
        encoder (Encoder): Computes the features that are evaluated.
        train (LabeledSet): Images with label maps for training; labels are resized like images.
        val (LabeledSet): Images with label maps, which are scored.
        variant (str): ``'cotap'``, ``'dinov2'`` or ``'leopart'``. Defaults to ``'cotap'``.
        steps (int, optional): Number of training steps. Defaults to the variant's.
        lr (float, optional): Learning rate. Defaults to the variant's.
        train_batch (int, optional): Images per step, over all ranks. Defaults to the variant's.
        decay (str, optional): ``'constant'``, ``'linear'`` or ``'step'``. Defaults to the
            variant's.
        seed (int): Seed of the initial weights and the order of images. Defaults to 0.

    Returns:
        dict: ``mIoU``, ``IoU`` and ``aAcc``, see :func:`segmentation_scores`, in
        percent, and ``settings`` (dict: the training settings of the layer).

    Raises:
        ValueError: If an option is out of range, a data set is empty, there are fewer
            training images than ranks, or a label is out of range.
    """
    settings = linear_settings(variant, steps, lr, train_batch, decay)
    if len(train) < world_size() or not len(val):
        raise ValueError(
            f'train and val must contain images, at least one per process, got '
            f'{len(train)} and {len(val)} for {world_size()} processes'
        )
    num_classes = train.num_classes
    cached = cache_features(encoder, train, settings.map_size)
    head = train_head(cached, num_classes, settings, encoder.device, seed)
    with torch.no_grad():
        confusion = torch.zeros(num_classes, num_classes, dtype=torch.long, device=encoder.device)
        for _, images, labels in iter_batches(val, 'scoring'):
            for features, label in zip(encoder(images).patches, labels):
                if settings.map_size is not None:
                    features, label = _to_map(features, label, settings.map_size)
                logits = resize_maps(head(features[None]), label.shape)
                confusion += confusion_matrix(
                    best_class(logits[0]), label.to(encoder.device), num_classes
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
    encoder: Encoder, labeled: LabeledSet, map_size: Optional[int] = None
) -> list[CachedImage]:
    """Compute features and labels of this rank's shard of a data set, and keep them on the CPU.

    Args:
        encoder (Encoder): Computes the features.
        labeled (LabeledSet): Images with label maps; labels are resized (nearest) to its
            ``image_size``, if given.
        map_size (int, optional): Resize features and labels to this side instead. Defaults to
            None.

    Returns:
        list[CachedImage]: Features and label of each image.

    Raises:
        ValueError: If a label is out of range.
    """
    cached = []
    for _, images, labels in iter_batches(labeled, 'features'):
        for features, label in zip(encoder(images).patches, labels):
            check_label_range(label, labeled.num_classes)
            if map_size is not None:
                features, label = _to_map(features, label, map_size)
            elif labeled.image_size is not None:
                label = _resize_label(label, images.shape[2:])
            cached.append(CachedImage(features.half().cpu(), label.to(torch.uint8).cpu()))
    return cached


def _resize_label(label: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(label[None, None].float(), tuple(size), mode='nearest-exact')[0, 0]


def _to_map(features: Tensor, label: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Resize features (bilinear) and label (nearest) to (side, side)."""
    size = (side, side)
    return resize_maps(features[None], size)[0], _resize_label(label, size).to(torch.uint8)
