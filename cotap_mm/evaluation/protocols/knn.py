"""k-nearest-neighbor classification of images by their CLS features.

The k most similar training images (cosine) vote with weight exp(cosine / T). Source: Wu et al.,
https://arxiv.org/abs/1805.01978, as used by DINO, https://arxiv.org/abs/2104.14294.

Publications often report the best k and T, chosen on the validation images. Here the headline
is measured at fixed k and T; the best of the grid is reported separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F

from cotap_mm.distributed.collectives import all_reduce_sum
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import rank_indices
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments
from cotap_mm.ops.nearest import BLOCK_SIZE, build_search

from .cls_features import cls_features


@accept_separate_arguments
@watch_classes(maps=False)
@torch.no_grad()
def knn_classification(
    encoder: Encoder,
    train: LabeledSet,
    val: LabeledSet,
    k: int = 20,
    temperature: float = 0.07,
    grid_k: Sequence[int] = (5, 10, 20, 50, 100),
    grid_temperature: Sequence[float] = (0.05, 0.07, 0.1, 0.2),
    faiss_index: Optional[str] = None,
) -> dict[str, Any]:
    """Classify images by the labels of the nearest training images.

    Memory: 4 C bytes per image of both data sets, on every rank, and at most 4096 x 4096
    similarities at a time.

    Args:
        encoder (Encoder): Computes the CLS features.
        train (LabeledSet): Images with a class index each, which vote.
        val (LabeledSet): Images with a class index each, which are scored.
        k (int): Number of neighbors. Defaults to 20.
        temperature (float): Temperature T of the votes, in cosine units, > 0. Defaults to 0.07.
        grid_k (sequence): Values of k in the grid; values larger than the number of training
            images are skipped.
        grid_temperature (sequence): Values of T in the grid.
        faiss_index (str, optional): See :func:`build_search`. Defaults to None.

    Returns:
        dict: ``top1`` and ``top5`` (float, percent) at the fixed k and T, and
        ``best_of_grid`` (dict: top1, k, temperature), which is chosen on the validation images.

    Raises:
        ValueError: If a data set is empty, a label is out of range, or k or T is out of range.
    """
    if not temperature > 0 or not all(value > 0 for value in grid_temperature):
        raise ValueError(f'temperatures must be positive, got {[temperature, *grid_temperature]}')
    memory, queries = cls_features(encoder, train), cls_features(encoder, val)
    search = build_search(F.normalize(memory.features, dim=1), faiss_index)
    grid = [(count, t) for count in grid_k if count <= len(memory.labels) for t in grid_temperature]
    settings = [(k, temperature), *grid]
    hits = torch.zeros(len(settings), 2, dtype=torch.long, device=memory.features.device)
    shard = torch.tensor(
        list(rank_indices(len(queries.labels))), dtype=torch.long, device=queries.labels.device
    )
    for part in shard.split(BLOCK_SIZE):
        rows = F.normalize(queries.features[part], dim=1)
        similarity, index = search(rows, max(count for count, _ in settings))
        labels = memory.labels[index]  # (q, k)
        for row, (count, t) in enumerate(settings):
            votes = torch.zeros(len(part), val.num_classes, device=rows.device)
            votes.scatter_add_(1, labels[:, :count], (similarity[:, :count] / t).exp())
            top = votes.topk(min(5, val.num_classes), dim=1).indices
            top = top == queries.labels[part][:, None]
            hits[row] += torch.stack([top[:, 0].sum(), top.sum()])
    shares = 100 * all_reduce_sum(hits).double() / len(queries.labels)
    result: dict[str, Any] = dict(top1=shares[0, 0].item(), top5=shares[0, 1].item())
    if grid:
        best = int(shares[1:, 0].argmax())
        result['best_of_grid'] = dict(
            top1=shares[1 + best, 0].item(), k=grid[best][0], temperature=grid[best][1]
        )
    return result
