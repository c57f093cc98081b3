"""Dense nearest-neighbour retrieval: segmentation without training a head.

Every patch of a query image takes the labels of the most similar patches of a
labelled memory. Source: Balazevic et al., Towards In-context Scene
Understanding, https://arxiv.org/abs/2306.01667 (known as Hummingbird evaluation).

Two points differ from the widespread reimplementation: pixels labelled 255 are left
out of the memory (not counted as class 0), and by default images are used once,
without augmentation.
"""
from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import Encoder, normalize_images
from .labeled_images import IGNORE_LABEL
from .pictures import Size, resize_image
from .segmentation_scores import confusion_matrix, segmentation_scores

# Rows of queries x rows of memory that are compared at a time: 64 MB of float32.
BLOCK_SIZE = 4096


def patch_labels(label: Tensor, grid: Tuple[int, int], num_classes: int) -> Tensor:
    """Share of each class among the labelled pixels of each patch.

    Every pixel belongs to exactly one patch, also where the label is no multiple of the grid.

    Args:
        label (Tensor): Class indices, 255 ignored, shape (H, W).
        grid (tuple): Number of patches (h, w).
        num_classes (int): Number of classes C.

    Returns:
        Tensor: float32, shape (h * w, C). Rows sum to 1; a patch without a labelled
        pixel is all 0.

    Raises:
        ValueError: If a label is neither a class nor 255.
    """
    height, width = label.shape
    rows = torch.arange(height, device=label.device) * grid[0] // height
    columns = torch.arange(width, device=label.device) * grid[1] // width
    patch = (rows[:, None] * grid[1] + columns).flatten()  # (H * W,)
    flat = label.flatten().long()
    patch, flat = patch[flat != IGNORE_LABEL], flat[flat != IGNORE_LABEL]
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < num_classes:
        raise ValueError(f'labels must be 0..{num_classes - 1} or {IGNORE_LABEL} (ignored), got '
                         f'{int(flat.min())}..{int(flat.max())}; check num_classes')
    size = grid[0] * grid[1]
    counts = torch.bincount(patch * num_classes + flat, minlength=size * num_classes)
    counts = counts.view(size, num_classes).float()
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)


def nearest(queries: Tensor,
            memory: Tensor,
            k: int,
            block_size: int = BLOCK_SIZE) -> Tuple[Tensor, Tensor]:
    """Exact k nearest rows by inner product, block by block.

    Never holds more than ``block_size`` x ``block_size`` similarities.

    Args:
        queries (Tensor): Shape (Q, C).
        memory (Tensor): Shape (M, C), M >= k.
        k (int): Number of neighbours.
        block_size (int): Rows of either side that are compared at a time.

    Returns:
        tuple: Similarities (Q, k), largest first, and indices into the memory (Q, k).

    Raises:
        ValueError: If the memory has fewer than k rows.
    """
    if not 1 <= k <= len(memory):
        raise ValueError(f'k must be in 1..{len(memory)} (patches in the memory), got {k}; lower '
                         'k, or give more memory images or a larger memory_size')
    found = []
    for rows in queries.split(block_size):
        best = rows.new_empty((len(rows), 0))
        index = torch.empty((len(rows), 0), dtype=torch.long, device=rows.device)
        for start in range(0, len(memory), block_size):
            similarity = rows @ memory[start:start + block_size].T  # (q, m)
            top, here = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, index = torch.cat([best, top], 1), torch.cat([index, here + start], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            index = index.gather(1, order)
        found.append((best, index))
    return torch.cat([best for best, _ in found]), torch.cat([index for _, index in found])


def _batches(dataset: Any, batch_size: int,
             image_size: Optional[Size]) -> Iterator[Tuple[Tensor, List[Tensor]]]:
    """Images (B, 3, H, W) in float and their labels; a batch holds one image size."""
    images: List[Tensor] = []
    labels: List[Tensor] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        image = resize_image(sample['image'], image_size)
        if images and (len(images) == batch_size or image.shape != images[0].shape):
            yield normalize_images(torch.stack(images)), labels
            images, labels = [], []
        images.append(image)
        labels.append(sample['label'])
    if images:
        yield normalize_images(torch.stack(images)), labels


def _keep_rare(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Choose ``size`` patches of one image, patches of classes rare in it more often.

    The chance of a patch is inverse to how many patches of the image show its classes.
    """
    frequency = (labels > 0).float().sum(dim=0)  # (C,)
    chance = 1 / ((labels > 0).float() @ frequency)  # (N,)
    return torch.multinomial(chance, size, generator=generator)


def build_memory(encoder: Encoder,
                 memory: Any,
                 num_classes: int,
                 memory_size: Optional[int] = None,
                 image_size: Optional[Size] = None,
                 batch_size: int = 16,
                 device: Optional[torch.device] = None,
                 seed: int = 0) -> Tuple[Tensor, Tensor]:
    """Encode the labelled images; arguments as in :func:`dense_retrieval`.

    Returns:
        tuple: L2-normalised features (M, C) and class shares (M, num_classes).

    Raises:
        ValueError: If no labelled patch is left, or ``memory_size`` is not positive.
    """
    if memory_size is not None and memory_size < 1:
        raise ValueError(f'memory_size must be positive or None (all), got {memory_size}')
    generator = torch.Generator().manual_seed(seed)
    device = torch.device(device) if device is not None else encoder.device
    features, shares, done = [], [], 0
    for images, labels in _batches(memory, batch_size, image_size):
        patches = F.normalize(encoder(images).patches, dim=1)  # (B, C, h, w)
        for feature, label in zip(patches, labels):
            share = patch_labels(label, feature.shape[1:], num_classes)
            kept = share.sum(dim=1).nonzero().squeeze(1)
            if memory_size is not None:
                # Equal parts for all images, to the last patch.
                part = (done + 1) * memory_size // len(memory) - done * memory_size // len(memory)
                if part < len(kept):
                    kept = kept[_keep_rare(share[kept], part, generator)] if part else kept[:0]
            done += 1
            rows = feature.flatten(1).T  # (C, h, w) -> (N, C)
            features.append(rows[kept.to(rows.device)].to(device))
            shares.append(share[kept].to(device))
    if not sum(len(part) for part in features):
        raise ValueError(f'the memory of {len(memory)} images has no patch with a labelled pixel')
    return torch.cat(features), torch.cat(shares)


@torch.no_grad()
def dense_retrieval(encoder: Encoder,
                    memory: Any,
                    queries: Any,
                    num_classes: int,
                    k: int = 30,
                    temperature: float = 0.02,
                    memory_size: Optional[int] = None,
                    image_size: Optional[Size] = None,
                    batch_size: int = 16,
                    device: Union[str, torch.device, None] = None,
                    seed: int = 0) -> Dict[str, Any]:
    """Segment the queries by the nearest patches of the memory.

    The labels of the k most similar patches (cosine) are averaged with weights
    softmax(cosine / temperature); the map of class shares is resized bilinearly to the
    label of the query, and each pixel takes the largest. The search is exact, in
    blocks; memory: (M, C) features, no table of all pairs. No global random state is used.

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
        image_size (int | tuple, optional): Resize all images to this square, or (height,
            width), in pixels. Defaults to None (as they are).
        batch_size (int): Images encoded at a time. Defaults to 16.
        device (str | torch.device, optional): Where memory and search are. Defaults
            to None (that of the encoder).
        seed (int): Of the memory sampling. Defaults to 0.

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
        raise ValueError('memory and queries must hold images, got '
                         f'{len(memory)} and {len(queries)}')
    device = torch.device(device) if device is not None else encoder.device
    bank, shares = build_memory(encoder, memory, num_classes, memory_size, image_size, batch_size,
                                device, seed)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
    for images, labels in _batches(queries, batch_size, image_size):
        maps = retrieve_labels(encoder(images).patches.to(device), bank, shares, k, temperature)
        for soft, label in zip(maps, labels):
            guess = label_from_shares(soft, label.shape)
            confusion += confusion_matrix(guess, label.to(device), num_classes)
    return dict(segmentation_scores(confusion), num_memory=len(bank))


def retrieve_labels(patches: Tensor, bank: Tensor, shares: Tensor, k: int,
                    temperature: float) -> Tensor:
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
    batch, _, rows, columns = patches.shape
    queries = F.normalize(patches.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)  # (B h w, C)
    soft = []
    for part in queries.split(BLOCK_SIZE):
        similarity, index = nearest(part, bank, k)
        weights = F.softmax(similarity / temperature, dim=1)  # (q, k)
        soft.append(torch.einsum('qk,qkc->qc', weights, shares[index]))
    return torch.cat(soft).view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def label_from_shares(shares: Tensor, size: Sequence[int]) -> Tensor:
    """The class of each pixel from class shares of patches.

    Args:
        shares (Tensor): Shape (K, h, w).
        size (sequence): Pixels (H, W); shares are resized bilinearly.

    Returns:
        Tensor: int64, shape (H, W).
    """
    large = F.interpolate(shares[None], tuple(size), mode='bilinear', align_corners=False)
    return large[0].argmax(dim=0)
