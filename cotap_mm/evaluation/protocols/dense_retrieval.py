"""Dense nearest-neighbour retrieval: segmentation without training a head.

Every patch of a query image takes the labels of the most similar patches of a
labelled memory. Source: Balazevic et al., Towards In-context Scene
Understanding, https://arxiv.org/abs/2306.01667 (known as Hummingbird evaluation).

Two points differ from the widespread reimplementation: pixels labelled 255 are left
out of the memory (not counted as class 0), and by default images are used once,
without augmentation.
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
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.class_presence import watch_classes
from cotap_mm.evaluation.metrics import (
    confusion_matrix,
    label_from_shares,
    patch_labels,
    segmentation_scores,
)
from cotap_mm.ops.nearest import BLOCK_SIZE, Search, build_search


def _keep_rare(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Choose ``size`` patches of one image, patches of classes rare in it more often.

    The chance of a patch is inverse to how many patches of the image show its classes.
    """
    frequency = (labels > 0).float().sum(dim=0)  # (C,)
    chance = 1 / ((labels > 0).float() @ frequency)  # (N,)
    return torch.multinomial(chance, size, generator=generator)


class AugmentedImages:
    """``epochs`` random crops (half of the area or more) and flips of each labelled image.

    Args:
        dataset: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``.
        epochs (int): Versions of each image.
        image_size (int | tuple, optional): Size of the crops, that of the image by default.
        seed (int): Sample ``i`` depends on ``(seed, i)`` only.
    """

    def __init__(self, dataset: Any, epochs: int, image_size: Optional[Size], seed: int) -> None:
        self.dataset, self.epochs, self.image_size = dataset, epochs, image_size
        self.seed = seed

    def __len__(self) -> int:
        return self.epochs * len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Sample of ``dataset[index % len(dataset)]``, augmented."""
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


def build_memory(
    encoder: Encoder,
    memory: Any,
    num_classes: int,
    memory_size: Optional[int] = None,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
    device: Optional[torch.device] = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Encode the labelled images; arguments as in :func:`dense_retrieval`.

    Returns:
        tuple: L2-normalised features (M, C) and class shares (M, num_classes), of all ranks.

    Raises:
        ValueError: If no labelled patch is left, or ``memory_size`` is not positive.
    """
    if memory_size is not None and memory_size < 1:
        raise ValueError(f'memory_size must be positive or None (all), got {memory_size}')
    device = torch.device(device) if device is not None else encoder.device
    features: list[Tensor] = []
    shares: list[Tensor] = []
    for indices, images, labels in iter_batches(memory, batch_size, image_size, 'memory'):
        patches = F.normalize(encoder(images).patches, dim=1)  # (B, C, h, w)
        for index, feature, label in zip(indices, patches, labels):
            share = patch_labels(label, feature.shape[1:], num_classes)
            kept = share.sum(dim=1).nonzero().squeeze(1)
            if memory_size is not None:
                # Equal parts for all images, to the last patch.
                part = (index + 1) * memory_size // len(memory) - index * memory_size // len(memory)
                # Seeded by image, so that the number of ranks changes nothing.
                generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
                if part < len(kept):
                    kept = kept[_keep_rare(share[kept], part, generator)] if part else kept[:0]
            rows = feature.flatten(1).T  # (C, h, w) -> (N, C)
            features.append(rows[kept.to(rows.device)].to(device))
            shares.append(share[kept].to(device))
    if not features:  # fewer images than ranks
        width = encoder(torch.zeros(1, 3, encoder.patch_size, encoder.patch_size)).patches.shape[1]
        features, shares = (
            [torch.zeros(0, width, device=device)],
            [torch.zeros(0, num_classes, device=device)],
        )
    bank, all_shares = gather_rows(torch.cat(features)), gather_rows(torch.cat(shares))
    if not len(bank):
        raise ValueError(f'the memory of {len(memory)} images has no patch with a labelled pixel')
    return bank, all_shares


@watch_classes()
@torch.no_grad()
def dense_retrieval(
    encoder: Encoder,
    memory: Any,
    queries: Any,
    num_classes: int,
    k: int = 30,
    temperature: float = 0.02,
    memory_size: Optional[int] = None,
    augmentation_epochs: int = 0,
    image_size: Optional[Size] = None,
    batch_size: int = 16,
    device: Union[str, torch.device, None] = None,
    faiss_index: Optional[str] = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Segment the queries by the nearest patches of the memory.

    The labels of the k most similar patches (cosine) are averaged with weights
    softmax(cosine / temperature); the map of class shares is resized bilinearly to the
    label of the query, and each pixel takes the largest. The search is exact, in
    blocks, unless ``faiss_index`` says otherwise. Memory: (M, C) features on every rank, no
    table of all pairs. No global random state is used.

    Example::

        from cotap_mm.evaluation import ImageMaskFolder, ViTEncoder, dense_retrieval
        train = ImageMaskFolder('camvid/images/train', 'camvid/labels/train')
        val = ImageMaskFolder('camvid/images/val', 'camvid/labels/val')
        scores = dense_retrieval(ViTEncoder(backbone), train, val, 11,
                                 image_size=(360, 480), memory_size=100_000)

    Args:
        encoder (Encoder): The features to measure.
        memory: Data set of ``dict(image=uint8 (3, H, W), label=(H, W))``; labels are
            class indices, 255 is ignored.
        queries: The same, for the images to segment.
        num_classes (int): Number of classes.
        k (int): Neighbours of a patch. Defaults to 30.
        temperature (float): Of the softmax over neighbours, in cosine units, > 0.
            Defaults to 0.02.
        memory_size (int, optional): Keep at most this many patches, an equal part of
            each image, patches of rare classes more often. Defaults to None (all).
        augmentation_epochs (int): Fill the memory with this many random crops and flips of
            each image instead of the image itself; published figures of the widespread
            reimplementation use 2. Defaults to 0.
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.
        device (str | torch.device, optional): Where memory and search are. Defaults
            to None (that of the encoder).
        faiss_index (str, optional): See :func:`build_search`. Defaults to None.
        seed (int): Of augmentation and memory sampling. Defaults to 0.

    Returns:
        dict: ``mIoU`` (float, per cent), ``IoU`` (list of floats per class, NaN where
        it never occurs), ``aAcc`` (float, per cent) and ``num_memory`` (int, patches kept).

    Raises:
        ValueError: If a data set is empty, a label is no class, k is more than the
            memory holds, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f'temperature must be positive, got {temperature}')
    if not len(memory) or not len(queries):
        raise ValueError(
            f'memory and queries must hold images, got {len(memory)} and {len(queries)}'
        )
    device = torch.device(device) if device is not None else encoder.device
    if augmentation_epochs:
        memory = AugmentedImages(memory, augmentation_epochs, image_size, seed)
    bank, shares = build_memory(
        encoder, memory, num_classes, memory_size, image_size, batch_size, device, seed
    )
    search = build_search(bank, faiss_index)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
    for _, images, labels in iter_batches(queries, batch_size, image_size, 'retrieval'):
        maps = vote(encoder(images).patches.to(device), search, shares, k, temperature)
        for soft, label in zip(maps, labels):
            guess = label_from_shares(soft, label.shape)
            confusion += confusion_matrix(guess, label.to(device), num_classes)
    return dict(segmentation_scores(all_reduce_sum(confusion)), num_memory=len(bank))


def retrieve_labels(
    patches: Tensor, bank: Tensor, shares: Tensor, k: int, temperature: float
) -> Tensor:
    """Soft label of every patch from its nearest patches in the memory.

    Args:
        patches (Tensor): Features, need not be normalised, shape (B, C, h, w).
        bank (Tensor): L2-normalised memory, shape (M, C).
        shares (Tensor): Class shares of the memory, shape (M, K).
        k (int): Number of neighbours.
        temperature (float): Of the softmax over the neighbours.

    Returns:
        Tensor: Class shares, shape (B, K, h, w).
    """
    return vote(patches, build_search(bank), shares, k, temperature)


def vote(patches: Tensor, search: Search, shares: Tensor, k: int, temperature: float) -> Tensor:
    """As :func:`retrieve_labels`, with a search over the memory that is built already."""
    batch, _, rows, columns = patches.shape
    queries = F.normalize(patches.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)  # (B h w, C)
    soft = []
    for part in queries.split(BLOCK_SIZE):
        similarity, index = search(part, k)
        weights = F.softmax(similarity / temperature, dim=1)  # (q, k)
        soft.append(torch.einsum('qk,qkc->qc', weights, shares[index]))
    return torch.cat(soft).view(batch, rows, columns, -1).permute(0, 3, 1, 2)
