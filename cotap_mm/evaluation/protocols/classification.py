"""Classification of whole images by their CLS feature: nearest neighbours, and a linear layer.

k-NN: the k most similar training images (cosine) vote with weight exp(cosine / T). Source:
Wu et al., https://arxiv.org/abs/1805.01978, as DINO uses it, https://arxiv.org/abs/2104.14294.
Linear: Adam, one epoch, no augmentation, the protocol of CoTAP, https://arxiv.org/abs/2509.09429.

Publications often report the best k, T or epoch, chosen on the validation images. The
headline here is at fixed settings and the last epoch; the best is given beside it, by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.distributed.collectives import all_reduce_sum, broadcast, gather_rows
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size
from cotap_mm.evaluation.batches import iter_batches, rank_indices, with_progress
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.ops.nearest import BLOCK_SIZE, build_search


class CLSFeatures(NamedTuple):
    """All images of a data set, the same on every rank.

    Attributes:
        features (Tensor): Shape (N, C), float32.
        labels (Tensor): Class of each, shape (N,), int64.
    """

    features: Tensor
    labels: Tensor


@torch.no_grad()
def cls_features(
    encoder: Encoder,
    dataset: Any,
    num_classes: int,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
) -> CLSFeatures:
    """CLS features of a data set of ``dict(image=uint8 (3, H, W), label=int)``.

    Memory: 4 C bytes an image, on every rank.

    Raises:
        ValueError: If the data set is empty or a label is no class.
    """
    if not len(dataset):
        raise ValueError('the data set must hold images, got none')
    rows: list[Tensor] = []
    labels: list[int] = []
    indices: list[int] = []
    for batch in iter_batches(dataset, batch_size, image_size, 'CLS features'):
        rows.append(encoder(batch.images).cls)
        labels += [int(label) for label in batch.labels]
        indices += batch.indices
    if not rows:  # fewer images than ranks
        side = encoder.patch_size
        rows = [encoder(torch.zeros(1, 3, side, side)).cls[:0]]
    wrong = [label for label in labels if not 0 <= label < num_classes]
    if wrong:
        raise ValueError(f'labels must be 0..{num_classes - 1}, got {wrong[0]}')
    features = gather_rows(torch.cat(rows))
    numbers = gather_rows(torch.tensor([indices, labels], device=features.device).T)
    order = numbers[:, 0].argsort()  # as in the data set, however many ranks there are
    return CLSFeatures(features[order], numbers[order, 1])


@watch_classes(maps=False)
@torch.no_grad()
def knn_classification(
    encoder: Encoder,
    train: Any,
    val: Any,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    grid_k: Sequence[int] = (5, 10, 20, 50, 100),
    grid_temperature: Sequence[float] = (0.05, 0.07, 0.1, 0.2),
    image_size: Optional[Size] = None,
    batch_size: int = 16,
    faiss_index: Optional[str] = None,
) -> dict[str, Any]:
    """Classify images by the labels of the nearest training images.

    Memory: 4 C bytes an image of both data sets, on every rank, and at most 4096 x 4096
    similarities at a time.

    Args:
        encoder (Encoder): Gives the CLS features.
        train: Data set of ``dict(image=uint8 (3, H, W), label=int)``.
        val: The same, for the score.
        num_classes (int): Number of classes.
        k (int): Neighbours. Defaults to 20.
        temperature (float): T of the votes, in cosine units, > 0. Defaults to 0.07.
        grid_k (sequence): For the best-of-grid figure; larger ones than there are training
            images are left out.
        grid_temperature (sequence): The same, T.
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.
        faiss_index (str, optional): See :func:`build_search`. Defaults to None.

    Returns:
        dict: ``top1`` and ``top5`` (float, per cent) at the fixed k and T, and
        ``best_of_grid`` (dict: top1, k, temperature), which is chosen on the images that it
        is measured on.

    Raises:
        ValueError: If a data set is empty, a label is no class, or k or T is out of range.
    """
    if not temperature > 0 or not all(each > 0 for each in grid_temperature):
        raise ValueError(f'temperatures must be positive, got {[temperature, *grid_temperature]}')
    memory = cls_features(encoder, train, num_classes, image_size, batch_size)
    queries = cls_features(encoder, val, num_classes, image_size, batch_size)
    search = build_search(F.normalize(memory.features, dim=1), faiss_index)
    grid = [(each, t) for each in grid_k if each <= len(memory.labels) for t in grid_temperature]
    settings = [(k, temperature), *grid]
    hits = torch.zeros(len(settings), 2, dtype=torch.long, device=memory.features.device)
    mine = torch.tensor(
        list(rank_indices(len(queries.labels))), dtype=torch.long, device=queries.labels.device
    )
    for part in mine.split(BLOCK_SIZE):
        rows = F.normalize(queries.features[part], dim=1)
        similarity, index = search(rows, max(each for each, _ in settings))
        found = memory.labels[index]  # (q, k)
        for row, (count, t) in enumerate(settings):
            votes = torch.zeros(len(part), num_classes, device=rows.device)
            votes.scatter_add_(1, found[:, :count], (similarity[:, :count] / t).exp())
            top = votes.topk(min(5, num_classes), dim=1).indices == queries.labels[part][:, None]
            hits[row] += torch.stack([top[:, 0].sum(), top.sum()])
    shares = 100 * all_reduce_sum(hits).double() / len(queries.labels)
    result: dict[str, Any] = dict(top1=shares[0, 0].item(), top5=shares[0, 1].item())
    if grid:
        best = int(shares[1:, 0].argmax())
        result['best_of_grid'] = dict(
            top1=shares[1 + best, 0].item(), k=grid[best][0], temperature=grid[best][1]
        )
    return result


@watch_classes(maps=False)
def linear_classification(
    encoder: Encoder,
    train: Any,
    val: Any,
    num_classes: int,
    epochs: int = 1,
    lr: float = 1e-3,
    train_batch: int = 256,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a linear layer on CLS features, and classify with it.

    Every rank trains the same layer on all features, which is quick. Memory: 4 C bytes an image
    of both data sets, on every rank.

    Args:
        encoder (Encoder): Gives the CLS features.
        train: Data set of ``dict(image=uint8 (3, H, W), label=int)``.
        val: The same, for the score.
        num_classes (int): Number of classes.
        epochs (int): Passes over the training features. Defaults to 1.
        lr (float): Of Adam. Defaults to 1e-3.
        train_batch (int): Images a step. Defaults to 256.
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.
        seed (int): Of the layer and the order. Defaults to 0.

    Returns:
        dict: ``top1`` and ``top5`` (float, per cent) after the last epoch, and
        ``best_of_epochs`` (dict: top1, epoch), which is chosen on the validation images.

    Raises:
        ValueError: If a data set is empty, a label is no class, or ``epochs`` < 1.
    """
    if epochs < 1:
        raise ValueError(f'epochs must be at least 1, got {epochs}')
    known = cls_features(encoder, train, num_classes, image_size, batch_size)
    asked = cls_features(encoder, val, num_classes, image_size, batch_size)
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(known.features.shape[1], num_classes)
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=generator)
        layer.bias.zero_()
    layer.to(known.features.device)
    for parameter in layer.parameters():
        broadcast(parameter.data)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    curve = []
    for _ in with_progress(range(epochs), 'linear layer'):
        for rows in torch.randperm(len(known.labels), generator=generator).split(train_batch):
            rows = rows.to(known.labels.device)
            loss = F.cross_entropy(layer(known.features[rows]), known.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curve.append(_accuracy(layer, asked))
    best = max(range(epochs), key=lambda epoch: curve[epoch]['top1'])
    return dict(curve[-1], best_of_epochs=dict(top1=curve[best]['top1'], epoch=best + 1))


@torch.no_grad()
def _accuracy(layer: nn.Module, asked: CLSFeatures) -> dict[str, float]:
    logits = layer(asked.features)
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == asked.labels[:, None]
    shares = 100 * hits.double().cumsum(dim=1).mean(dim=0)
    return dict(top1=shares[0].item(), top5=shares[-1].item())
