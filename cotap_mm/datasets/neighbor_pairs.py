"""Training samples: crops of an image and of one of its neighbors, for each branch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Optional, Union, cast

import numpy as np
import torch
from mmengine.device import is_cuda_available
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cotap_mm.datasets.sources.jpeg.decoder import decoded_into, kept_encoded
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.ops import COLOR_DRAWS
from cotap_mm.registry import DATASETS, TRANSFORMS, build
from cotap_mm.rules import FLAG, check_arguments, number, or_one_of, whole

from .branch_source import BranchSource
from .decoded_images import DecodedImages, JpegStore, PixelStore
from .read_with_retry import PATIENCE
from .samplers import Visit
from .shared_parts import forget_lent, lend
from .training_sample import TrainingSample
from .transforms.multi_crop import MultiCrop

CROP_ON = ('auto', 'worker', 'device', 'device_jpeg')
CropMemory = tuple[Tensor, Tensor]  # of the global and the local crops of a pair


@DATASETS.register_module()
class NeighborPairs(Dataset):
    """Crops of an image and of one of its nearest neighbors, for both branches.

    Samples are :class:`.TrainingSample` dictionaries. The patch branch uses images of scenes, the
    CLS branch object-centered images; one source may be used for both, with separate draws. The
    length is that of the longer branch; indices of the shorter one wrap around. The positive is
    drawn uniformly from the ``num_neighbors`` nearest images.

    A file that cannot be decoded is logged with its path, counted, and replaced; too many of them
    abort the training. Each rank counts over its own workers.

    If the key is a :class:`Visit` of :class:`VisitSampler`, all random draws follow from it. If it
    is an integer, as with other samplers, they follow from the integer, the worker's seed and the
    number of samples that the worker has drawn.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        patch (dict | ImageSource): Image source of the patch branch, or its config.
        neighbors (str): Neighbor file of the patch branch; ``cotap train`` resolves ``'auto'``
            before the data set is built.
        cls (dict | ImageSource, optional): Image source of the CLS branch, or its config.
            Defaults to the images of the patch branch.
        cls_neighbors (str, optional): Neighbor file of the CLS branch.
        num_neighbors (int): Number of nearest images to draw the positive from. Defaults to 7.
        crops (dict, optional): Options of :class:`MultiCrop`.
        max_bad_fraction (float): Fraction of a branch's images that may be undecodable before
            training is aborted (2 images always may). Defaults to 0.01.
        reduce_jpeg (bool): Decode large JPEGs at a half, a quarter or an eighth of their sides if
            no crop is enlarged by it. Defaults to True.
        patience (float): Seconds to wait, with increasing pauses, while all images are
            unreachable, for instance on a network disk; 0 does not wait. Defaults to 3600.
        crop_on (str): ``'worker'`` crops in the process that decodes. ``'device'`` only draws the
            boxes; :class:`.CoTAPDataPreprocessor` crops on the training device, with the same
            pixels. ``'device_jpeg'`` also leaves plain JPEGs to be decoded there, see
            :mod:`cotap_mm.models.device_jpegs`. ``'auto'`` is ``'device'`` if there is a CUDA
            device, and if ``crops`` is a :class:`MultiCrop`. Defaults to ``'worker'``; the configs
            have ``'auto'``.

    Raises:
        ValueError: If neighbors are missing, do not fit, or are still ``'auto'``, or ``crop_on``
            is unknown or does not fit, or another option is out of range.
    """

    metainfo: dict[str, Any] = {}  # MMEngine warns without it; the images have no labels

    @check_arguments(
        num_neighbors=whole(1),
        max_bad_fraction=number(0, 1),
        reduce_jpeg=FLAG,
        patience=or_one_of(number(0)._replace(wanted='a number of seconds >= 0'), math.inf),
    )
    def __init__(
        self,
        patch: Union[dict, ImageSource],
        neighbors: Optional[str],
        cls: Optional[Union[dict, ImageSource]] = None,
        cls_neighbors: Optional[str] = None,
        num_neighbors: int = 7,
        crops: Optional[dict] = None,
        max_bad_fraction: float = 0.01,
        reduce_jpeg: bool = True,
        patience: float = PATIENCE,
        crop_on: str = 'worker',
    ) -> None:
        for name, value in (('neighbors', neighbors), ('cls_neighbors', cls_neighbors)):
            needed = name == 'neighbors' or cls is not None
            if needed and value in (None, 'auto'):
                raise ValueError(
                    f'{name} must be a neighbor file, got {value!r}: cotap train builds it '
                    "for 'auto'; otherwise run cotap neighbors --images IMAGES --out FILE.npy "
                    'first'
                )
        self.crop = build(TRANSFORMS, crops or {}, type='MultiCrop')
        self.crops_on_device = _crops_on_device(crop_on, self.crop)
        self.keeps_jpegs = crop_on == 'device_jpeg'
        options = (
            num_neighbors,
            max_bad_fraction,
            self.crop.is_large_enough if reduce_jpeg else None,
            patience,
        )
        patch_branch = BranchSource(patch, str(neighbors), *options)
        cls_branch = (
            patch_branch if cls is None else BranchSource(cls, str(cls_neighbors), *options)
        )
        self.branches = dict(patch=patch_branch, cls=cls_branch)
        self._num_draws = 0

    def __len__(self) -> int:
        return max(len(branch.source) for branch in self.branches.values())

    @property
    def being_read(self) -> list[str]:
        """Names of the images that are being read, for the message when a worker dies."""
        return sorted({name for branch in self.branches.values() for name in branch.being_read})

    @property
    def latest_sign(self) -> float:
        """Last time a process started or finished an image, in seconds of ``time.monotonic``."""
        return max(branch.signs.latest for branch in self.branches.values())

    def __getitem__(self, key: Union[int, Visit]) -> TrainingSample:
        """Read the images of one sample and crop them.

        Args:
            key (int | Visit): Index of the sample, with the seed of its draws if a :class:`Visit`.

        Returns:
            TrainingSample: Crops for the patch and the CLS branch.

        Raises:
            UserError: If too many images are bad, or all are unreachable for too long.
        """
        return self._sample(key, self._new_store() if self.crops_on_device else None)

    def __getitems__(self, keys: list[Union[int, Visit]]) -> list[TrainingSample]:
        """Read the samples of a batch, whose decoded images share memory; for PyTorch's loader.

        Args:
            keys (list[int | Visit]): See :meth:`__getitem__`.

        Returns:
            list[TrainingSample]: In the same order.
        """
        if type(self).__getitem__ is not NeighborPairs.__getitem__:  # of a user's subclass
            return [self[key] for key in keys]
        if not self.crops_on_device:
            forget_lent()
            memory = self._memory(len(keys))
            return [self._sample(key, out=out) for key, out in zip(keys, memory)]
        store = self._new_store()
        return [self._sample(key, store) for key in keys]

    def _new_store(self) -> PixelStore:
        return PixelStore(JpegStore() if self.keeps_jpegs else None)

    def _memory(self, samples: int) -> Iterator[Optional[list[CropMemory]]]:
        """Memory for the crops of each sample, by branch; None if the crops bring their own."""
        if type(self.crop) is not MultiCrop:
            return itertools.repeat(None, samples)
        lent = [[lend(samples, 2, *shape) for shape in self.crop.shapes] for _ in self.branches]
        return (
            [(global_crops[index], local_crops[index]) for global_crops, local_crops in lent]
            for index in range(samples)
        )

    def _sample(
        self,
        key: Union[int, Visit],
        store: Optional[PixelStore] = None,
        out: Optional[list[CropMemory]] = None,
    ) -> TrainingSample:
        """Read a sample and cut its crops, or, for the device, put its images into a store."""
        if isinstance(key, Visit):
            index, rng = key.index, np.random.default_rng((key.seed, key.count, key.index))
        else:
            index, rng = key, self._generator(key)
        sample: dict[str, Any] = {}
        decoded: dict[int, dict[int, np.ndarray]] = {}
        images = DecodedImages(self.crop, store) if store is not None else None
        for branch_index, (name, branch) in enumerate(self.branches.items()):
            pixels = decoded.setdefault(id(branch), {})  # one source for both is read once
            keep = images.keep if images and _returns_decoded(branch.source) else None
            with decoded_into(images and images.new_pixels), kept_encoded(keep):
                pair = branch.draw_pair(index % len(branch.source), rng, pixels)
            arrays = [image for _, image in pair]
            if images is None:
                crops = self._crops(arrays, rng, out and out[branch_index])
            else:
                boxes = [self.crop.draw_boxes(*image.shape[:2], rng) for image in arrays]
                images.add(name, arrays, boxes)
                crops = dict(boxes=torch.from_numpy(np.array(boxes, np.float32)))
            sample[name] = dict(crops, path=[branch.source.name(position) for position, _ in pair])
        for crops in sample.values():  # after all crops, whose draws must not change
            shape = (*crops['boxes'].shape[:2], COLOR_DRAWS)
            crops['color_draws'] = torch.from_numpy(rng.random(shape, dtype=np.float32))
        if images is not None:
            sample['images'] = images
        return cast(TrainingSample, sample)

    def _crops(
        self, pair: list[np.ndarray], rng: np.random.Generator, out: Optional[CropMemory]
    ) -> dict[str, Tensor]:
        """Crop an image and its positive, into given memory if there is any."""
        if out is None:
            parts = map(torch.stack, zip(*(self.crop(image, rng) for image in pair)))
            return dict(zip(('global_crops', 'local_crops', 'boxes'), parts))
        boxes = [self.crop.draw_boxes(*image.shape[:2], rng) for image in pair]
        for image, some, *crops in zip(pair, boxes, *out):
            self.crop.cut(image, some, crops)
        global_crops, local_crops = out
        return dict(
            global_crops=global_crops,
            local_crops=local_crops,
            boxes=torch.from_numpy(np.array(boxes, np.float32)),
        )

    def _generator(self, index: int) -> np.random.Generator:
        """Generator with new draws for each sample, if the key is not a :class:`Visit`.

        The seed that PyTorch's loader gives a worker differs between epochs; the seeds that
        MMEngine gives its workers do not, and would repeat the crops of the first epoch.
        """
        worker = get_worker_info()
        self._num_draws += 1
        seed = torch.initial_seed() if worker is None else worker.seed
        # The index is part of the seed because ranks may have the same worker seeds.
        return np.random.default_rng((seed, self._num_draws, index % len(self)))


def _returns_decoded(source: ImageSource) -> bool:
    return getattr(source, 'returns_decoded', False)


def _crops_on_device(crop_on: str, crop: Any) -> bool:
    if crop_on not in CROP_ON:
        raise ValueError(f'crop_on must be one of {CROP_ON}, got {crop_on!r}')
    fits = isinstance(crop, MultiCrop)
    is_fixed = crop_on.startswith('device')
    if is_fixed and not fits:
        raise ValueError(
            f"crop_on='{crop_on}' needs crops of MultiCrop, got {type(crop).__name__}; use 'worker'"
        )
    return is_fixed or (crop_on == 'auto' and fits and is_cuda_available())
