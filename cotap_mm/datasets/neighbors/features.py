"""Compute global features of the images of a source with a frozen ViT."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import functional as TF

from cotap_mm.datasets.loader_watch import report_dead_worker, watch_loader
from cotap_mm.datasets.read_with_retry import read_with_retry
from cotap_mm.datasets.sources.decoding import BadImage
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.datasets.sources.protocol import ImageSource, prepare
from cotap_mm.datasets.workers import WatchedImages, start_worker, surviving_workers, warning_level
from cotap_mm.distributed.failures import show_progress, silence_limit
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD
from cotap_mm.progress import Progress

from .encoder import GlobalFeatureEncoder
from .feature_file import FeatureFile

_SAVE_EVERY = 1024  # images


def extract_features(
    source: ImageSource,
    encoder: GlobalFeatureEncoder,
    part: str | Path,
    batch_size: int = 32,
    num_workers: int = 2,
    indices: Optional[range] = None,
    progress: Optional[Progress] = None,
    dtype: str = 'float32',
) -> FeatureFile:
    """Compute unit-length features of images and write them to a file.

    An interrupted computation is resumed, see :class:`FeatureFile`.

    Args:
        source (ImageSource): The images.
        encoder (GlobalFeatureEncoder): Computes the features.
        part (str | Path): The file.
        batch_size (int): Images per forward pass. Defaults to 32.
        num_workers (int): Number of data loader workers. Defaults to 2.
        indices (range, optional): Images of the source. Defaults to None, all.
        progress (Progress, optional): Counts the images, also those of an earlier run.
        dtype (str): Type of the values on disk, see :class:`FeatureFile`. Defaults to
            ``'float32'``.

    Returns:
        FeatureFile: Features, shape (N, C), float32; the row of an image that cannot be read is
        zero.

    Raises:
        ValueError: If the encoder returns values that are not finite.
        UserError: If the disk is full, or a worker dies or hangs.
    """
    indices = range(len(source)) if indices is None else indices
    features = feature_file(source, encoder, part, indices, dtype)
    is_complete = features.load()
    if progress is not None and features.done:
        progress.update(features.done, is_new=False)
    if is_complete:
        return features
    if features.done:
        print_log(f'{features.done} of {len(indices)} features exist already', logger='current')
    dataset = _Squares(source, encoder.image_size, indices[features.done :])
    loader = watch_loader(
        DataLoader(
            dataset, batch_size=batch_size, num_workers=num_workers, worker_init_fn=start_worker
        ),
        silence_limit(),
    )
    saved = features.done
    with surviving_workers(), report_dead_worker(lambda: dataset.being_read):
        for images, readable in loader:
            features.append(_encode(encoder, images, readable))
            if progress is not None:
                progress.update(len(images))
            show_progress()
            if features.done - saved >= _SAVE_EVERY or features.is_complete:
                features.save()
                saved = features.done
    return features


def feature_file(
    source: ImageSource,
    encoder: GlobalFeatureEncoder,
    part: str | Path,
    indices: range,
    dtype: str = 'float32',
) -> FeatureFile:
    """Create the object for the file of :func:`extract_features`, without reading the file.

    Args:
        source (ImageSource): The images.
        encoder (GlobalFeatureEncoder): See :func:`extract_features`.
        part (str | Path): The file.
        indices (range): Images of the source.
        dtype (str): Type of the values on disk. Defaults to ``'float32'``.
    """
    names = '\n'.join(source.name(i) for i in indices)
    task = dict(
        identity=encoder.identity,
        files=fingerprint_of(source),
        names=hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest(),
    )
    return FeatureFile(part, task, len(indices), dtype)


class _Squares(WatchedImages):
    """Center crops of the images of a source, resized and normalized."""

    def __init__(self, source: ImageSource, size: int, indices: range) -> None:
        super().__init__(source)
        self.size, self.indices = size, indices
        prepare(source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        with self.signs.reading(self.indices[index]):
            return self._square(index)

    def _square(self, index: int) -> tuple[Tensor, bool]:
        try:
            pixels = read_with_retry(
                self.source, self.indices[index], self._is_large_enough, self.signs
            )
        except BadImage as error:
            print_log(
                f'cannot decode {error}; it will not be a neighbor of any image',
                logger='current',
                level=warning_level(),
            )
            return torch.zeros(3, self.size, self.size), False
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        # Cropped first: resizing an image of 1 x 5000 pixels first would exhaust the memory.
        image = TF.center_crop(image, [min(image.shape[1:])] * 2)
        image = TF.resize(image, [self.size, self.size], antialias=True)
        return TF.normalize(image.float() / 255, IMAGENET_MEAN, IMAGENET_STD), True

    def _is_large_enough(self, height: int, width: int) -> bool:
        return min(height, width) >= self.size


def _encode(encoder: GlobalFeatureEncoder, images: Tensor, readable: Tensor) -> np.ndarray:
    features = F.normalize(encoder(images.to(encoder.device)).float(), dim=1).cpu()
    if not bool(features[readable].isfinite().all()):
        raise ValueError(
            'the backbone returns global features that are not finite; check its checkpoint'
        )
    features[~readable] = 0
    return features.numpy()
