"""One training sample: an image and a neighbour of it, for each branch."""

from __future__ import annotations

from typing import Optional, Union

import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import Dataset, get_worker_info

from cotap_mm.datasets.neighbors.file import load_neighbors
from cotap_mm.datasets.sources.files import BadImage, SizePredicate, prepare
from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops import COLOR_DRAWS
from cotap_mm.registry import DATASETS, TRANSFORMS, build

from .read_with_retry import PATIENCE, read_with_retry
from .samplers import Visit
from .workers import ReadingSigns, warning_level

_BAD_ALLOWED = 2  # in any data set, however small
_MAX_TRIES = 20


class BranchSource:
    """Images of one branch and their neighbours.

    Which images are bad is kept in memory that the loader's workers share: they are
    counted together, and each is decoded and logged once.

    Args:
        source (dict | object): An image source: ``len``, ``name(i)``, ``read(i, enough)``.
        neighbors (str): Neighbour file.
        num_neighbors (int): Nearest images to draw from.
        max_bad_fraction (float): Share of bad images above which reading stops.
        enough (callable, optional): See :func:`read_image`. Defaults to None.
        patience (float): Seconds to wait for a folder that has gone. Defaults to 3600.

    Raises:
        ValueError: If there are too few images, or the neighbours do not fit them.
    """

    def __init__(
        self,
        source,
        neighbors: str,
        num_neighbors: int,
        max_bad_fraction: float,
        enough: SizePredicate = None,
        patience: float = PATIENCE,
    ) -> None:
        self.source = build(DATASETS, source) if isinstance(source, dict) else source
        if len(self.source) < 2:
            raise ValueError(f'a branch needs at least 2 images, got {len(self.source)}')
        prepare(self.source)
        names = [self.source.name(i) for i in range(len(self.source))]
        self.neighbors = load_neighbors(neighbors, names, num_neighbors)
        self.max_bad_fraction = max_bad_fraction
        self.enough = enough
        self.patience = patience
        self.signs = ReadingSigns()
        self.is_bad = torch.zeros(len(self.source), dtype=torch.bool).share_memory_()

    @property
    def bad_images(self) -> list[str]:
        """Names of the images that could not be decoded so far."""
        return [self.source.name(i) for i in self.is_bad.nonzero().flatten().tolist()]

    @property
    def being_read(self) -> list[str]:
        """Names of the images that workers have begun and not finished to read."""
        return [self.source.name(i) for i in self.signs.being_read]

    def draw_pair(self, index: int, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
        """An image and one of its neighbours, each as index and pixels.

        A bad neighbour is replaced by another neighbour, a bad image by another image.

        Raises:
            UserError: If too many images are bad.
        """
        for _ in range(_MAX_TRIES):
            image = self._read(index)
            if image is not None:
                for other in rng.permutation(self.neighbors[index]).tolist():
                    positive = self._read(other)
                    if positive is not None:
                        return [(index, image), (other, positive)]
            index = int(rng.integers(len(self.source)))
        raise self._too_many()

    def _read(self, index: int) -> Optional[np.ndarray]:
        if self.is_bad[index]:
            return None
        try:
            with self.signs.reading(index):
                return read_with_retry(self.source, index, self.enough, self.signs, self.patience)
        except BadImage as error:
            self.is_bad[index] = True
            print_log(
                f'cannot decode {error}; another image takes its place',
                logger='current',
                level=warning_level(),
            )
            if self.is_bad.sum() > max(_BAD_ALLOWED, self.max_bad_fraction * len(self.source)):
                raise self._too_many() from error
            return None

    def _too_many(self) -> UserError:
        names = self.bad_images
        shown = '\n  '.join(map(printable, names[:50]))
        more = f'\n  and {len(names) - 50} more, all in the log' if len(names) > 50 else ''
        return UserError(
            f'{len(names)} of {len(self.source)} images cannot be decoded; '
            f'max_bad_fraction={self.max_bad_fraction} allows '
            f'{int(max(_BAD_ALLOWED, self.max_bad_fraction * len(self.source)))}. Repair them, or '
            f'remove them and rebuild the neighbours:\n  {shown}{more}'
        )


@DATASETS.register_module()
class NeighborPairs(Dataset):
    """Crops of an image and of one of its nearest neighbours, for both branches.

    The patch branch takes scenes, the CLS branch object-centred images; one source
    may feed both, each with its own draws. As long as the longer branch; the shorter
    one is indexed modulo. The positive is drawn uniformly from the ``num_neighbors``
    nearest images.

    A file that cannot be decoded is logged with its path, counted, and replaced; too
    many of them stop the training. Each rank counts for itself, all its workers
    together.

    Indexed by a :class:`Visit` of :class:`VisitSampler`, all draws follow from it.
    Indexed by a number, as other samplers do, they follow from it, the worker's seed
    and the number of samples it drew before.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        patch (dict): Image source of the patch branch.
        neighbors (str): Its neighbour file; ``'auto'`` is resolved by
            ``tools/train.py`` before the data set is built.
        cls (dict, optional): Image source of the CLS branch. Defaults to the patch
            branch's images.
        cls_neighbors (str, optional): Its neighbour file.
        num_neighbors (int): Nearest images to draw the positive from. Defaults to 7.
        crops (dict, optional): Options of :class:`MultiCrop`.
        max_bad_fraction (float): Share of a branch's images that may be undecodable
            before training stops (2 may be in any case). Defaults to 0.01.
        patience (float): Seconds to wait, with growing pauses, for images that have all
            become unreachable, as on a network disk. Defaults to 3600.
        reduce_jpeg (bool): Decode large JPEGs at a half, a quarter or an eighth of their
            sides where no crop is enlarged by it. Defaults to True.

    Raises:
        ValueError: If neighbours are missing, do not fit, or are still ``'auto'``.
    """

    def __init__(
        self,
        patch: dict,
        neighbors: Optional[str],
        cls: Optional[dict] = None,
        cls_neighbors: Optional[str] = None,
        num_neighbors: int = 7,
        crops: Optional[dict] = None,
        max_bad_fraction: float = 0.01,
        reduce_jpeg: bool = True,
        patience: float = PATIENCE,
    ) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f'max_bad_fraction must be in [0, 1], got {max_bad_fraction}')
        for name, value in (('neighbors', neighbors), ('cls_neighbors', cls_neighbors)):
            needed = name == 'neighbors' or cls is not None
            if needed and value in (None, 'auto'):
                raise ValueError(
                    f'{name} must be a neighbour file, got {value!r}: tools/train.py builds it '
                    "for 'auto'; elsewhere run tools/build_neighbors.py IMAGES --out FILE.npz "
                    'first'
                )
        self.crop = build(TRANSFORMS, crops or {}, type='MultiCrop')
        enough = self.crop.is_enough if reduce_jpeg else None
        own = BranchSource(patch, str(neighbors), num_neighbors, max_bad_fraction, enough, patience)
        self.branches = dict(
            patch=own,
            cls=own
            if cls is None
            else BranchSource(
                cls, str(cls_neighbors), num_neighbors, max_bad_fraction, enough, patience
            ),
        )
        self._num_draws = 0

    def __len__(self) -> int:
        return max(len(branch.source) for branch in self.branches.values())

    @property
    def being_read(self) -> list[str]:
        """Images that were begun and not finished, for what is said when a worker dies."""
        return sorted({name for branch in self.branches.values() for name in branch.being_read})

    @property
    def latest_sign(self) -> float:
        """When a process last began or finished an image, in seconds of ``time.monotonic``."""
        return max(branch.signs.latest for branch in self.branches.values())

    def __getitem__(self, key: Union[int, Visit]) -> dict[str, dict]:
        """One sample.

        Returns:
            dict: For ``patch`` and ``cls``: ``global_crops`` (2, 2, G, G, 3) and
            ``local_crops`` (2, L, S, S, 3), uint8, axis 0 being image and positive;
            ``boxes`` (2, 2 + L, 4), float32, in pixels of the decoded image; ``color_draws``
            (2, 2 + L, :data:`cotap_mm.ops.COLOR_DRAWS`), float32, what the crops' colour
            follows from; ``path``, both names.
        """
        if isinstance(key, Visit):
            index, rng = key.index, np.random.default_rng((key.seed, key.count, key.index))
        else:
            index, rng = key, self._generator(key)
        sample = {
            name: self._sample(branch, index % len(branch.source), rng)
            for name, branch in self.branches.items()
        }
        for part in sample.values():  # behind the crops, whose draws stay what they were
            shape = (*part['boxes'].shape[:2], COLOR_DRAWS)
            part['color_draws'] = torch.from_numpy(rng.random(shape, dtype=np.float32))
        return sample

    def _generator(self, index: int) -> np.random.Generator:
        """New draws for each sample, without a :class:`Visit`.

        The loader's own worker seed differs from epoch to epoch; the seeds that
        MMEngine gives its workers do not, and would repeat the first epoch's crops.
        """
        worker = get_worker_info()
        self._num_draws += 1
        seed = torch.initial_seed() if worker is None else worker.seed
        # The index too, since ranks may have the same seeds.
        return np.random.default_rng((seed, self._num_draws, index % len(self)))

    def _sample(self, branch: BranchSource, index: int, rng: np.random.Generator) -> dict:
        pair = branch.draw_pair(index, rng)
        parts = [self.crop(pixels, rng) for _, pixels in pair]
        global_crops, local_crops, boxes = (torch.stack(part) for part in zip(*parts))
        return dict(
            global_crops=global_crops,
            local_crops=local_crops,
            boxes=boxes,
            path=[branch.source.name(place) for place, _ in pair],
        )
