"""Dense nearest-neighbor retrieval: segmentation without training a head.

Each patch of a query image takes the labels of the most similar patches of a labeled memory.
Source: Balazevic et al., Towards In-context Scene Understanding,
https://arxiv.org/abs/2306.01667 (known as Hummingbird evaluation).

There are two differences from the widely used reimplementation: pixels labeled 255 are excluded
from the memory (not counted as class 0), and by default each image is used once, without
augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from cotap_mm.distributed.collectives import all_reduce_sum, gather_rows
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.images import Size, resize_image
from cotap_mm.encoders.several import encode_each
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
    """Encode the labeled images of the memory; see :func:`build_memories`.

    Returns:
        tuple: L2-normalized features (M, C) and class shares (M, num_classes), of all ranks.
    """
    (bank,), shares = build_memories([encoder], memory, memory_size, device, seed)
    return bank, shares


def build_memories(
    encoders: Sequence[Encoder],
    memory: LabeledSet,
    memory_size: Optional[int] = None,
    device: Union[str, torch.device, None] = None,
    seed: int = 0,
) -> tuple[list[Tensor], Tensor]:
    """Encode the labeled images of the memory with several encoders, which keep the same patches.

    Holds the features once; on several ranks, also those of the images of this rank.

    Args:
        encoders (sequence): Compute the features; all have the same patch size.
        memory (LabeledSet): Images with label maps.
        memory_size (int, optional): See :func:`dense_retrieval`. Defaults to None (all).
        device (str | torch.device, optional): Device of the result. Defaults to None (the
            first encoder's device).
        seed (int): Seed of the sampling. Defaults to 0.

    Returns:
        tuple: For each encoder the L2-normalized features (M, C), and the class shares
        (M, num_classes), of all ranks.

    Raises:
        ValueError: If no patch is labeled, ``memory_size`` is not positive, or the encoders have
            different patch sizes.
    """
    if memory_size is not None and memory_size < 1:
        raise ValueError(f'memory_size must be positive or None (all), got {memory_size}')
    sizes = {encoder.patch_size for encoder in encoders}
    if len(sizes) != 1:
        raise ValueError(
            'there must be encoders, all of one patch size, got patch sizes '
            f'{sorted(sizes)}; measure those of different sizes one by one'
        )
    device = torch.device(device) if device is not None else encoders[0].device
    banks: list[GrowingRows] = []  # of the features of each encoder
    shares = GrowingRows(0, device)
    for indices, images, labels in iter_batches(memory, 'memory'):
        maps = [F.normalize(out.patches, dim=1) for out in encode_each(encoders, images)]
        grid = maps[0].shape[2:]  # the maps are (B, C, h, w)
        if not banks:
            count = _expected_rows(len(memory), grid.numel(), memory_size)
            banks = [GrowingRows(count, device) for _ in encoders]
            shares = GrowingRows(count, device)
        for row, (index, label) in enumerate(zip(indices, labels)):
            share = patch_labels(label, grid, memory.num_classes)
            kept = _kept_patches(share, index, len(memory), memory_size, seed)
            for bank, features in zip(banks, maps):
                rows = features[row].flatten(1).T  # (C, h, w) -> (N, C)
                bank.append(rows[kept.to(rows.device)])
            shares.append(share[kept])
    if not banks:  # fewer images than ranks
        one_patch = torch.zeros(1, 3, encoders[0].patch_size, encoders[0].patch_size)
        for out in encode_each(encoders, one_patch):
            banks.append(GrowingRows(0, device))
            banks[-1].append(torch.zeros(0, out.patches.shape[1]))
        shares.append(torch.zeros(0, memory.num_classes))
    all_shares = gather_rows(shares.rows())
    if not len(all_shares):
        raise ValueError(f'the memory of {len(memory)} images has no patch with a labeled pixel')
    return [gather_rows(bank.rows()) for bank in banks], all_shares


def _expected_rows(num_images: int, num_patches: int, memory_size: Optional[int]) -> int:
    """Largest number of patches of this rank, for images with ``num_patches`` each."""
    own = rank_indices(num_images)
    if memory_size is None:
        return len(own) * num_patches
    return min(len(own) * num_patches, sum(_part(i, num_images, memory_size) for i in own))


def _kept_patches(
    share: Tensor, index: int, num_images: int, memory_size: Optional[int], seed: int
) -> Tensor:
    """Indices of the patches that an image contributes to the memory."""
    kept = share.sum(dim=1).nonzero().squeeze(1)
    if memory_size is None:
        return kept
    part = _part(index, num_images, memory_size)
    if part >= len(kept):
        return kept
    # Seeded per image, so the result does not depend on the number of ranks.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    return kept[_keep_rare(share[kept], part, generator)] if part else kept[:0]


@accept_separate_arguments
@watch_classes()
@torch.no_grad()
def dense_retrieval(
    encoder: Union[Encoder, Sequence[Encoder]],
    memory: LabeledSet,
    queries: LabeledSet,
    k: int = 30,
    temperature: float = 0.02,
    memory_size: Optional[int] = None,
    augmentation_epochs: int = 0,
    device: Union[str, torch.device, None] = None,
    faiss_index: Optional[str] = None,
    seed: int = 0,
) -> Any:
    """Segment the queries by the nearest patches of the memory.

    The labels of the k most similar patches (cosine) are averaged with weights
    softmax(cosine / temperature). The map of class shares is resized bilinearly to the label of
    the query, and each pixel takes the class with the largest share. The search is exact and
    computed in blocks, unless ``faiss_index`` is given. Memory: (M, C) features on every rank;
    the table of all pairs is never built. No global random state is used.

    Several encoders are measured in one pass over the images: each image and label is read once,
    and the outputs of one network need one forward pass, see :func:`encode_each`. The features of
    the memory are then held for all of them at a time.

    Example::

        from cotap_mm.evaluation import ImageMaskFolder, LabeledSet, ViTEncoder, dense_retrieval
        train = ImageMaskFolder('camvid/images/train', 'camvid/labels/train')
        val = ImageMaskFolder('camvid/images/val', 'camvid/labels/val')
        memory, queries = (LabeledSet(part, 11, image_size=(360, 480)) for part in (train, val))
        scores = dense_retrieval(ViTEncoder(backbone), memory, queries, memory_size=100_000)

    Args:
        encoder (Encoder | sequence): Computes the features that are evaluated; or a list of
            encoders of one patch size.
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
            to None (the device of the first encoder).
        faiss_index (str, optional): See :func:`build_search`. Defaults to None.
        seed (int): Seed of augmentation and memory sampling. Defaults to 0.

    Returns:
        dict: ``mIoU`` (float, percent), ``IoU`` (list of floats, one per class, NaN for a class
        that never occurs), ``aAcc`` (float, percent) and ``num_memory`` (int, patches kept). For a
        list of encoders, a list with such a dict for each.

    Raises:
        ValueError: If a data set is empty, a label is out of range, k is larger than the
            memory, the temperature is not positive, or patch sizes differ.
    """
    if temperature <= 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    if not len(memory) or not len(queries):
        raise ValueError(
            f'memory and queries must contain images, got {len(memory)} and {len(queries)}'
        )
    encoders = list(encoder) if isinstance(encoder, Sequence) else [encoder]
    if augmentation_epochs:
        memory = memory.with_dataset(
            AugmentedImages(memory.dataset, augmentation_epochs, memory.image_size, seed)
        )
    banks, shares = build_memories(encoders, memory, memory_size, device, seed)
    searches = [build_search(bank, faiss_index) for bank in banks]
    num_classes = queries.num_classes
    confusions = shares.new_zeros(len(banks), num_classes, num_classes, dtype=torch.long)
    for _, images, labels in iter_batches(queries, 'retrieval'):
        for out, search, confusion in zip(encode_each(encoders, images), searches, confusions):
            maps = vote(out.patches.to(shares.device), search, shares, k, temperature)
            for soft, label in zip(maps, labels):
                prediction = label_from_shares(soft, label.shape)
                confusion += confusion_matrix(prediction, label.to(shares.device), num_classes)
    scores = [
        dict(segmentation_scores(confusion), num_memory=len(shares))
        for confusion in all_reduce_sum(confusions)
    ]
    return scores if isinstance(encoder, Sequence) else scores[0]


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
