"""Training samples: crops of an image and of one of its neighbors, for each branch."""

from __future__ import annotations

from typing import Any, Optional, Union, cast

import numpy as np
import torch
from mmengine.device import is_cuda_available
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cotap_mm.datasets.neighbors.file import open_neighbors
from cotap_mm.datasets.neighbors.rows import NeighborRows, UnreachableRows
from cotap_mm.datasets.sources.decoding import BadImage
from cotap_mm.datasets.sources.names import names_of
from cotap_mm.datasets.sources.protocol import ImageSource, SizePredicate, prepare
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops import COLOR_DRAWS
from cotap_mm.registry import DATASETS, TRANSFORMS, build

from .decoded_images import DecodedImages, PixelStore
from .opened import open_source
from .read_with_retry import PATIENCE, read_with_retry, retry
from .samplers import Visit
from .training_sample import TrainingSample
from .transforms.multi_crop import MultiCrop
from .workers import ReadingSigns, shared_zeros, warning_level

_BAD_ALLOWED = 2  # in any data set, however small
_MAX_TRIES = 20
CROP_ON = ('auto', 'worker', 'device')


class BranchSource:
    """Images of one branch and their neighbors.

    The flags of bad images are stored in memory that the loader's workers share, so that bad
    images are counted over all workers, and each is decoded and logged only once.

    Args:
        source (dict | ImageSource): The images, or a config of an image source.
        neighbors (str): Neighbor file.
        num_neighbors (int): Number of nearest images to draw the positive from.
        max_bad_fraction (float): Fraction of bad images above which an error is raised.
        is_large_enough (callable, optional): See :meth:`.ImageSource.read`. Defaults to None.
        patience (float): Seconds to wait while all images are unreachable. Defaults to 3600.

    Raises:
        ValueError: If there are too few images, or the neighbors do not fit them.
    """

    def __init__(
        self,
        source: Union[dict, ImageSource],
        neighbors: str,
        num_neighbors: int,
        max_bad_fraction: float,
        is_large_enough: Optional[SizePredicate] = None,
        patience: float = PATIENCE,
    ) -> None:
        self.source: ImageSource = open_source(source) if isinstance(source, dict) else source
        if len(self.source) < 2:
            raise ValueError(f'a branch needs at least 2 images, got {len(self.source)}')
        prepare(self.source)
        self.neighbors = self._neighbors(neighbors, num_neighbors)
        self.max_bad_fraction = max_bad_fraction
        self.is_large_enough = is_large_enough
        self.patience = patience
        self.signs = ReadingSigns()
        self.is_bad = shared_zeros(len(self.source), torch.bool)

    def _neighbors(self, path: str, num_neighbors: int) -> Union[NeighborRows, np.ndarray]:
        """Open the neighbors, unless the source was handed on with them."""
        *read_from, neighbors = getattr(self.source, 'loaded_neighbors', None) or [None]
        self.source.loaded_neighbors = None  # type: ignore[attr-defined]  # not for the workers
        if read_from == [path, num_neighbors]:
            return neighbors
        return open_neighbors(path, names_of(self.source), num_neighbors)

    def neighbors_of(self, index: int) -> np.ndarray:
        """Neighbors of an image, nearest first, shape (k,); waits while their file is unreachable.

        Args:
            index (int): Index of the image.

        Raises:
            UserError: If the file was damaged, or has been unreachable for too long.
        """
        if not isinstance(self.neighbors, NeighborRows):
            return self.neighbors[index]
        rows = self.neighbors
        return retry(
            lambda: rows[index],
            UnreachableRows,
            rows.is_reachable,
            'neighbors',
            self.signs,
            self.patience,
        )

    @property
    def bad_images(self) -> list[str]:
        """Names of the images that could not be decoded so far."""
        return [self.source.name(i) for i in self.is_bad.nonzero().flatten().tolist()]

    @property
    def being_read(self) -> list[str]:
        """Names of the images that workers are reading."""
        return [self.source.name(i) for i in self.signs.being_read]

    def draw_pair(
        self,
        index: int,
        rng: np.random.Generator,
        decoded: Optional[dict[int, np.ndarray]] = None,
    ) -> list[tuple[int, np.ndarray]]:
        """Read an image and one of its neighbors, drawn uniformly.

        A bad neighbor is replaced by another neighbor, a bad image by another image.

        Args:
            index (int): Index of the image.
            rng (np.random.Generator): Source of randomness.
            decoded (dict[int, np.ndarray], optional): Pixels of images that have been read for the
                same sample; those that are read now are added. Defaults to None.

        Returns:
            list[tuple[int, np.ndarray]]: Index and pixels of the image and of its positive.

        Raises:
            UserError: If too many images are bad.
        """
        decoded = {} if decoded is None else decoded

        def read(index: int) -> Optional[np.ndarray]:
            if index not in decoded:
                pixels = self._read(index)
                if pixels is None:
                    return None
                decoded[index] = pixels
            return decoded[index]

        for _ in range(_MAX_TRIES):
            image = read(index)
            if image is not None:
                for other in rng.permutation(self.neighbors_of(index)).tolist():
                    positive = read(other)
                    if positive is not None:
                        return [(index, image), (other, positive)]
            index = int(rng.integers(len(self.source)))
        raise self._too_many()

    def _read(self, index: int) -> Optional[np.ndarray]:
        if self.is_bad[index]:
            return None
        try:
            with self.signs.reading(index):
                return read_with_retry(
                    self.source, index, self.is_large_enough, self.signs, self.patience
                )
        except BadImage as error:
            self.is_bad[index] = True
            print_log(
                f'cannot decode {error}; using another image instead',
                logger='current',
                level=warning_level(),
            )
            if self.is_bad.sum() > max(_BAD_ALLOWED, self.max_bad_fraction * len(self.source)):
                raise self._too_many() from error
            return None

    def _too_many(self) -> UserError:
        names = self.bad_images
        shown = '\n  '.join(map(printable, names[:50]))
        more = f'\n  and {len(names) - 50} more, see the log' if len(names) > 50 else ''
        return UserError(
            f'{len(names)} of {len(self.source)} images cannot be decoded; '
            f'max_bad_fraction={self.max_bad_fraction} allows '
            f'{int(max(_BAD_ALLOWED, self.max_bad_fraction * len(self.source)))}. Repair them, or '
            f'remove them and rebuild the neighbors:\n  {shown}{more}'
        )


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
            unreachable, for instance on a network disk. Defaults to 3600.
        crop_on (str): ``'worker'`` crops in the process that decodes. ``'device'`` only draws the
            boxes; :class:`.CoTAPDataPreprocessor` crops on the training device, with the same
            pixels. ``'auto'`` is ``'device'`` if there is a CUDA device, and if ``crops`` is a
            :class:`MultiCrop`. Defaults to ``'worker'``; the configs have ``'auto'``.

    Raises:
        ValueError: If neighbors are missing, do not fit, or are still ``'auto'``, or ``crop_on``
            is unknown or does not fit.
    """

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
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f'max_bad_fraction must be in [0, 1], got {max_bad_fraction}')
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
        return self._sample(key, PixelStore())

    def __getitems__(self, keys: list[Union[int, Visit]]) -> list[TrainingSample]:
        """Read the samples of a batch, whose decoded images share memory; for PyTorch's loader.

        Args:
            keys (list[int | Visit]): See :meth:`__getitem__`.

        Returns:
            list[TrainingSample]: In the same order.
        """
        if not self.crops_on_device:
            return [self[key] for key in keys]
        store = PixelStore()
        return [self._sample(key, store) for key in keys]

    def _sample(self, key: Union[int, Visit], store: PixelStore) -> TrainingSample:
        """Read a sample and cut its crops, or, for the device, put its images into a store."""
        if isinstance(key, Visit):
            index, rng = key.index, np.random.default_rng((key.seed, key.count, key.index))
        else:
            index, rng = key, self._generator(key)
        sample: dict[str, Any] = {}
        decoded: dict[int, dict[int, np.ndarray]] = {}
        images = DecodedImages(self.crop, store) if self.crops_on_device else None
        for name, branch in self.branches.items():
            pixels = decoded.setdefault(id(branch), {})  # one source for both is read once
            pair = branch.draw_pair(index % len(branch.source), rng, pixels)
            crops = self._crops(name, [image for _, image in pair], rng, images)
            sample[name] = dict(crops, path=[branch.source.name(position) for position, _ in pair])
        for crops in sample.values():  # after all crops, whose draws must not change
            shape = (*crops['boxes'].shape[:2], COLOR_DRAWS)
            crops['color_draws'] = torch.from_numpy(rng.random(shape, dtype=np.float32))
        if images is not None:
            sample['images'] = images
        return cast(TrainingSample, sample)

    def _crops(
        self,
        branch: str,
        pair: list[np.ndarray],
        rng: np.random.Generator,
        images: Optional[DecodedImages],
    ) -> dict[str, Tensor]:
        """Crop an image and its positive, or only draw the boxes, for ``images``."""
        if images is None:
            parts = map(torch.stack, zip(*(self.crop(image, rng) for image in pair)))
            return dict(zip(('global_crops', 'local_crops', 'boxes'), parts))
        boxes = [self.crop.draw_boxes(*image.shape[:2], rng) for image in pair]
        images.add(branch, pair, boxes)
        return dict(boxes=torch.tensor(boxes, dtype=torch.float32))

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


def _crops_on_device(crop_on: str, crop: Any) -> bool:
    if crop_on not in CROP_ON:
        raise ValueError(f'crop_on must be one of {CROP_ON}, got {crop_on!r}')
    fits = isinstance(crop, MultiCrop)
    if crop_on == 'device' and not fits:
        raise ValueError(
            f"crop_on='device' needs crops of MultiCrop, got {type(crop).__name__}; use 'worker'"
        )
    return crop_on == 'device' or (crop_on == 'auto' and fits and is_cuda_available())
