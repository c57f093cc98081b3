"""Dense nearest-neighbor retrieval: segmentation without training a head.

Each patch of a query image takes the labels of the most similar patches of a labeled memory.
Source: Balazevic et al., Towards In-context Scene Understanding,
https://arxiv.org/abs/2306.01667 (known as Hummingbird evaluation).

There are two differences from the widely used reimplementation: pixels labeled 255 are excluded
from the memory (not counted as class 0), and by default each image is used once, without
augmentation.
"""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size, resize_image
from cotap_mm.evaluation.batches import iter_batches, rank_indices
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.growing_rows import GrowingRows
from cotap_mm.evaluation.metrics import (
    confusion_matrix,
    label_from_shares,
    patch_labels,
    segmentation_scores,
)
from cotap_mm.evaluation.separate_arguments import accept_separate_arguments
from cotap_mm.ops.nearest import BLOCK_SIZE, Search, build_search


def _keep_rare(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Sample ``size`` patches of one image, with a preference for its rare classes.

    The probability of a patch is inversely proportional to the number of patches of the image
    that share its classes.
    """
    frequency = (labels > 0).float().sum(dim=0)  # (C,)
    chance = 1 / ((labels > 0).float() @ frequency)  # (N,)
    return torch.multinomial(chance, size, generator=generator)


class AugmentedImages:
    """Randomly cropped (at least half of the area) and flipped versions of labeled images.

    Args:
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``.
        epochs (int): Number of versions of each image.
        image_size (int | tuple, optional): Size of the crops; None for the size of the image.
        seed (int): Sample ``i`` depends only on ``(seed, i)``.
    """

    def __init__(self, dataset: Any, epochs: int, image_size: Optional[Size], seed: int) -> None:
        self.dataset, self.epochs, self.image_size = dataset, epochs, image_size
        self.seed = seed

    def __len__(self) -> int:
        return self.epochs * len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Augment ``dataset[index % len(dataset)]``."""
        sample = self.dataset[index % len(self.dataset)]
        image = resize_image(sample['image'], self.image_size)
        size = image.shape[1:]
        label = F.interpolate(
            sample['label'][None, None].float(), size=tuple(size), mode='nearest'
        )[0].to(sample['label'].dtype)
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(tuple(size), scale=(0.5, 1), antialias=True),
                v2.RandomHorizontalFlip(),
            ]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + index)
            image, label = transform(Image(image), Mask(label))
        return dict(image=image.as_subclass(Tensor), label=label.as_subclass(Tensor)[0])


def _part(index: int, num_images: int, memory_size: int) -> int:
    """Number of patches that an image contributes: the same for each, up to one."""
    return (index + 1) * memory_size // num_images - index * memory_size // num_images


def build_memory(
    encoder: Encoder,
    memory: LabeledSet,
    memory_size: Optional[int] = None,
    device: Union[str, torch.device, None] = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Encode the labeled images of the memory.

    Holds the features once; on several ranks, also those of the images of this rank.

    Args:
        encoder (Encoder): Computes the features.
        memory (LabeledSet): Images with label maps.
        memory_size (int, optional): See :func:`dense_retrieval`. Defaults to None (all).
        device (str | torch.device, optional): Device of the result. Defaults to None (the
            encoder's device).
        seed (int): Seed of the sampling. Defaults to 0.

    Returns:
        tuple: L2-normalized features (M, C) and class shares (M, num_classes), of all ranks.

    Raises:
        ValueError: If there is no labeled patch, or ``memory_size`` is not positive.
    """
    if memory_size is not None and memory_size < 1:
        raise ValueError(f'memory_size must be positive or None (all), got {memory_size}')
    device = torch.device(device) if device is not None else encoder.device
    own = rank_indices(len(memory))
    features = shares = None
    for indices, images, labels in iter_batches(memory, 'memory'):
        patches = F.normalize(encoder(images).patches, dim=1)  # (B, C, h, w)
        if features is None:
            count = len(own) * patches[0, 0].numel()
            if memory_size is not None:
                count = min(count, sum(_part(i, len(memory), memory_size) for i in own))
            features, shares = GrowingRows(count, device), GrowingRows(count, device)
        for index, feature, label in zip(indices, patches, labels):
            share = patch_labels(label, feature.shape[1:], memory.num_classes)
            kept = share.sum(dim=1).nonzero().squeeze(1)
            if memory_size is not None:
                part = _part(index, len(memory), memory_size)
                # Seeded per image, so the result does not depend on the number of ranks.
                generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
                if part < len(kept):
                    kept = kept[_keep_rare(share[kept], part, generator)] if part else kept[:0]
            rows = feature.flatten(1).T  # (C, h, w) -> (N, C)
            features.append(rows[kept.to(rows.device)])
            shares.append(share[kept])
    if features is None or shares is None:  # fewer images than ranks
        width = encoder(torch.zeros(1, 3, encoder.patch_size, encoder.patch_size)).patches.shape[1]
        features, shares = GrowingRows(0, device), GrowingRows(0, device)
        features.append(torch.zeros(0, width))
        shares.append(torch.zeros(0, memory.num_classes))
    bank, all_shares = gather_rows(features.rows()), gather_rows(shares.rows())
    if not len(bank):
        raise ValueError(f'the memory of {len(memory)} images has no patch with a labeled pixel')
    return bank, all_shares


@accept_separate_arguments
@watch_classes()
@torch.no_grad()
def dense_retrieval(
    encoder: Encoder,
    memory: LabeledSet,
    queries: LabeledSet,
    k: int = 30,
    temperature: float = 0.02,
    memory_size: Optional[int] = None,
    augmentation_epochs: int = 0,
    device: Union[str, torch.device, None] = None,
    faiss_index: Optional[str] = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Segment the queries by the nearest patches of the memory.

    The labels of the k most similar patches (cosine) are averaged with weights
    softmax(cosine / temperature). The map of class shares is resized bilinearly to the label of
    the query, and each pixel takes the class with the largest share. The search is exact and
    computed in blocks, unless ``faiss_index`` is given. Memory: (M, C) features on every rank;
    the table of all pairs is never built. No global random state is used.

    Example::

        from cotap_mm.evaluation import ImageMaskFolder, LabeledSet, ViTEncoder, dense_retrieval
        train = ImageMaskFolder('camvid/images/train', 'camvid/labels/train')
        val = ImageMaskFolder('camvid/images/val', 'camvid/labels/val')
        memory, queries = (LabeledSet(part, 11, image_size=(360, 480)) for part in (train, val))
        scores = dense_retrieval(ViTEncoder(backbone), memory, queries, memory_size=100_000)

    Args:
        encoder (Encoder): Computes the features that are evaluated.
        memory (LabeledSet): Images with label maps, which provide the labels.
        queries (LabeledSet): Images with label maps, which are segmented and scored.
        k (int): Number of neighbors of a patch. Defaults to 30.
        temperature (float): Temperature of the softmax over neighbors, in cosine units, > 0.
            Defaults to 0.02.
        memory_size (int, optional): Keep at most this many patches, the same number from each
            image, with a preference for rare classes. Defaults to None (all).
        augmentation_epochs (int): Fill the memory with this many random crops and flips of
            each image instead of the image itself; published results of the widely used
            reimplementation use 2. Defaults to 0.
        device (str | torch.device, optional): Device of the memory and the search. Defaults
            to None (the encoder's device).
        faiss_index (str, optional): See :func:`build_search`. Defaults to None.
        seed (int): Seed of augmentation and memory sampling. Defaults to 0.

    Returns:
        dict: ``mIoU`` (float, percent), ``IoU`` (list of floats, one per class, NaN for a class
        that never occurs), ``aAcc`` (float, percent) and ``num_memory`` (int, patches kept).

    Raises:
        ValueError: If a data set is empty, a label is out of range, k is larger than the
            memory, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    if not len(memory) or not len(queries):
        raise ValueError(
            f'memory and queries must contain images, got {len(memory)} and {len(queries)}'
        )
    device = torch.device(device) if device is not None else encoder.device
    if augmentation_epochs:
        memory = memory.with_dataset(
            AugmentedImages(memory.dataset, augmentation_epochs, memory.image_size, seed)
        )
    bank, shares = build_memory(encoder, memory, memory_size, device, seed)
    search = build_search(bank, faiss_index)
    num_classes = queries.num_classes
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
    for _, images, labels in iter_batches(queries, 'retrieval'):
        maps = vote(encoder(images).patches.to(device), search, shares, k, temperature)
        for soft, label in zip(maps, labels):
            prediction = label_from_shares(soft, label.shape)
            confusion += confusion_matrix(prediction, label.to(device), num_classes)
    return dict(segmentation_scores(all_reduce_sum(confusion)), num_memory=len(bank))


def retrieve_labels(
    patches: Tensor, bank: Tensor, shares: Tensor, k: int, temperature: float
) -> Tensor:
    """Compute soft labels of patches from their nearest patches in the memory.

    Args:
        patches (Tensor): Features, not necessarily normalized, shape (B, C, h, w).
        bank (Tensor): L2-normalized memory, shape (M, C).
        shares (Tensor): Class shares of the memory, shape (M, K).
        k (int): Number of neighbors.
        temperature (float): Temperature of the softmax over the neighbors.

    Returns:
        Tensor: Class shares, shape (B, K, h, w).
    """
    return vote(patches, build_search(bank), shares, k, temperature)


def vote(patches: Tensor, search: Search, shares: Tensor, k: int, temperature: float) -> Tensor:
    """Like :func:`retrieve_labels`, with an existing search over the memory."""
    batch, _, rows, columns = patches.shape
    queries = F.normalize(patches.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)  # (B h w, C)
    soft = []
    for part in queries.split(BLOCK_SIZE):
        similarity, index = search(part, k)
        weights = F.softmax(similarity / temperature, dim=1)  # (q, k)
        soft.append(torch.einsum('qk,qkc->qc', weights, shares[index]))
    return torch.cat(soft).view(batch, rows, columns, -1).permute(0, 3, 1, 2)
