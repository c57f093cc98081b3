"""One training sample: an image and a neighbour of it, for each branch."""
from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import Dataset, get_worker_info

from cotap_mm.registry import DATASETS, TRANSFORMS

from .image_source import BadImage
from .neighbors import load_neighbors


class Branch:
    """Images of one branch and their neighbours.

    Args:
        source (dict | object): An image source: ``len``, ``name(i)``, ``read(i)``.
        neighbors (str): Neighbour file.
        num_neighbors (int): Nearest images to draw from.
    """

    def __init__(self, source, neighbors: str, num_neighbors: int) -> None:
        self.source = DATASETS.build(source) if isinstance(source, dict) else source
        if len(self.source) < 2:
            raise ValueError(f'a branch needs at least 2 images, got {len(self.source)}')
        names = [self.source.name(i) for i in range(len(self.source))]
        self.neighbors = load_neighbors(neighbors, names, num_neighbors)


@DATASETS.register_module()
class NeighborPairs(Dataset):
    """Crops of an image and of one of its nearest neighbours, for both branches.

    The patch branch takes scenes, the CLS branch object-centred images; one source
    may feed both, each with its own draws. As long as the longer branch; the shorter
    one is indexed modulo. The positive is drawn uniformly from the ``num_neighbors``
    nearest images.

    A file that cannot be decoded is logged with its path, counted, and replaced by
    another image; too many of them stop the training.

    The draws of a visit follow from the run's seed, the worker and the number of
    visits before it.

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
        max_bad_fraction (float): Share of undecodable files from which on training
            stops (but never before 3 files). Defaults to 0.01.

    Raises:
        ValueError: If neighbours are missing, do not fit, or are still ``'auto'``.
    """

    def __init__(self, patch: dict, neighbors: Optional[str], cls: Optional[dict] = None,
                 cls_neighbors: Optional[str] = None, num_neighbors: int = 7,
                 crops: Optional[dict] = None, max_bad_fraction: float = 0.01) -> None:
        for name, value in (('neighbors', neighbors), ('cls_neighbors', cls_neighbors)):
            needed = name == 'neighbors' or cls is not None
            if needed and value in (None, 'auto'):
                raise ValueError(
                    f'{name} must be a neighbour file, got {value!r}: tools/train.py builds it '
                    "for 'auto'; elsewhere run tools/build_neighbors.py IMAGES --out FILE.npz "
                    'first')
        self.branches = dict(patch=Branch(patch, neighbors, num_neighbors))
        self.branches['cls'] = self.branches['patch'] if cls is None else Branch(
            cls, cls_neighbors, num_neighbors)
        self.crop = TRANSFORMS.build(dict(dict(type='MultiCrop'), **(crops or {})))
        self.max_bad_fraction = max_bad_fraction
        self.bad_images: List[str] = []
        self._visits = 0

    def __len__(self) -> int:
        return max(len(branch.source) for branch in self.branches.values())

    def __getitem__(self, index: int) -> Dict[str, dict]:
        rng = self._generator(index)
        return {name: self._sample(branch, index % len(branch.source), rng)
                for name, branch in self.branches.items()}

    def _generator(self, index: int) -> np.random.Generator:
        """New draws for each visit.

        The loader's own worker seed differs from epoch to epoch; the seeds that
        MMEngine gives its workers do not, and would repeat the first epoch's crops.
        """
        worker = get_worker_info()
        seed = torch.initial_seed() if worker is None else worker.seed
        self._visits += 1
        return np.random.default_rng((seed, self._visits, index))

    def _sample(self, branch: Branch, index: int, rng: np.random.Generator) -> dict:
        index, image = self._read(branch, index, rng)
        positive = int(rng.choice(branch.neighbors[index]))
        positive, positive_image = self._read(branch, positive, rng)
        parts = [self.crop(pixels, rng) for pixels in (image, positive_image)]
        global_crops, local_crops, boxes = (torch.stack(part) for part in zip(*parts))
        return dict(global_crops=global_crops, local_crops=local_crops, boxes=boxes,
                    path=[branch.source.name(index), branch.source.name(positive)])

    def _read(self, branch: Branch, index: int,
              rng: np.random.Generator) -> Tuple[int, np.ndarray]:
        """The image, or a random other one if it cannot be decoded."""
        while True:
            try:
                return index, branch.source.read(index)
            except BadImage as error:
                self._note_bad_image(str(error), len(branch.source))
                index = int(rng.integers(len(branch.source)))

    def _note_bad_image(self, message: str, count: int) -> None:
        if message in self.bad_images:
            return
        self.bad_images.append(message)
        print_log(f'cannot decode {message}; another image takes its place',
                  logger='current', level=30)
        if len(self.bad_images) >= 3 and len(self.bad_images) > self.max_bad_fraction * count:
            listed = '\n  '.join(self.bad_images[:20])
            raise RuntimeError(
                f'{len(self.bad_images)} of {count} images cannot be decoded, more than '
                f'max_bad_fraction={self.max_bad_fraction}. Repair or remove them:\n  {listed}')
