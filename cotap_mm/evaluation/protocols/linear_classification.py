"""Linear classification of images by their CLS features.

Adam, one epoch, no augmentation: the protocol of CoTAP, https://arxiv.org/abs/2509.09429.

Publications often report the best epoch, chosen on the validation images. Here the headline is
measured after the last epoch; the best epoch is reported separately.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cotap_mm.distributed.collectives import broadcast
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import with_progress
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments

from .cls_features import CLSFeatures, cls_features


@accept_separate_arguments
@watch_classes(maps=False)
def linear_classification(
    encoder: Encoder,
    train: LabeledSet,
    val: LabeledSet,
    epochs: int = 1,
    lr: float = 1e-3,
    train_batch: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a linear layer on CLS features, and classify with it.

    Every rank trains the same layer on all features, which is fast. Memory: 4 C bytes per image of
    both data sets, on every rank.

    Args:
        encoder (Encoder): Computes the CLS features.
        train (LabeledSet): Images with a class index each, which the layer is trained on.
        val (LabeledSet): Images with a class index each, which are scored.
        epochs (int): Passes over the training features. Defaults to 1.
        lr (float): Learning rate of Adam. Defaults to 1e-3.
        train_batch (int): Images per training step. Defaults to 256.
        seed (int): Seed of the initial weights and of the order of images. Defaults to 0.

    Returns:
        dict: ``top1`` and ``top5`` (float, percent) after the last epoch, and
        ``best_of_epochs`` (dict: top1, epoch), which is chosen on the validation images.

    Raises:
        ValueError: If a data set is empty, a label is out of range, or ``epochs`` < 1.
    """
    if epochs < 1:
        raise ValueError(f'epochs must be at least 1, got {epochs}')
    train_features, val_features = cls_features(encoder, train), cls_features(encoder, val)
    rows, labels = train_features
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(rows.shape[1], train.num_classes)
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=generator)
        layer.bias.zero_()
    layer.to(rows.device)
    for parameter in layer.parameters():
        broadcast(parameter.data)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    curve = []
    for _ in with_progress(range(epochs), 'linear layer'):
        for batch in torch.randperm(len(labels), generator=generator).split(train_batch):
            batch = batch.to(labels.device)
            loss = F.cross_entropy(layer(rows[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curve.append(_accuracy(layer, val_features))
    best = max(range(epochs), key=lambda epoch: curve[epoch]['top1'])
    return dict(curve[-1], best_of_epochs=dict(top1=curve[best]['top1'], epoch=best + 1))


@torch.no_grad()
def _accuracy(layer: nn.Module, val: CLSFeatures) -> dict[str, float]:
    logits = layer(val.features)
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == val.labels[:, None]
    shares = 100 * hits.double().cumsum(dim=1).mean(dim=0)
    return dict(top1=shares[0].item(), top5=shares[-1].item())
