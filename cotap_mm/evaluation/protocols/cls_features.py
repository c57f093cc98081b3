"""CLS features of all images of a data set, for the classification protocols."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cotap_mm.distributed.collectives import gather_rows
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.data.label_files import check_label_range
from cotap_mm.evaluation.data.labeled_set import LabeledSet


class CLSFeatures(NamedTuple):
    """CLS features and labels of all images of a data set, identical on every rank.

    Attributes:
        features (Tensor): Shape (N, C), float32.
        labels (Tensor): Class indices, shape (N,), int64.
    """

    features: Tensor
    labels: Tensor


@torch.no_grad()
def cls_features(encoder: Encoder, labeled: LabeledSet) -> CLSFeatures:
    """Compute the CLS features of a data set whose labels are class indices.

    Memory: 4 C bytes per image, on every rank.

    Args:
        encoder (Encoder): Computes the features.
        labeled (LabeledSet): The images.

    Returns:
        CLSFeatures: Features and labels in the order of the data set.

    Raises:
        ValueError: If the data set is empty or a label is out of range.
    """
    if not len(labeled):
        raise ValueError('the data set must contain images, got none')
    rows: list[Tensor] = []
    labels: list[int] = []
    indices: list[int] = []
    for batch in iter_batches(labeled, 'CLS features'):
        rows.append(encoder(batch.images).cls)
        labels += [int(label) for label in batch.labels]
        indices += batch.indices
    if not rows:  # fewer images than ranks
        side = encoder.patch_size
        rows = [encoder(torch.zeros(1, 3, side, side)).cls[:0]]
    check_label_range(torch.tensor(labels, dtype=torch.long), labeled.num_classes, ignored=None)
    features = gather_rows(torch.cat(rows))
    numbers = gather_rows(torch.tensor([indices, labels], device=features.device).T)
    order = numbers[:, 0].argsort()  # restores the order of the data set for any number of ranks
    return CLSFeatures(features[order], numbers[order, 1])
