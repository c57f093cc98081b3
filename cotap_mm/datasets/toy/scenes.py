"""Toy data set: textured objects on textured grounds, with masks."""

from __future__ import annotations

import colorsys
import os.path as osp
import warnings
import zipfile
from typing import Callable, NamedTuple, Optional

import numpy as np

from cotap_mm.datasets.sources.protocol import SizePredicate
from cotap_mm.deprecation import renamed_argument
from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.registry import DATASETS
from cotap_mm.rules import check_arguments, one_of, whole

from . import textures as draw

_SPLITS = ('train', 'memory', 'val', 'test')
_SCENES = ('scene', 'single')
# Part of the cache's file name: increase it when a pixel changes.
_GENERATOR_VERSION = 5
# Largest tilt of an object, and of a texture against its object, in radians.
_TILT = 0.2
# Contrast of a ground's texture against an object's.
_GROUND_CONTRAST = 0.45
# Streams of images that a process keeps; those of a training and its evaluations are 4.
_MOST_STREAMS = 8
_drawn: dict[tuple[tuple[int, int, int], int], tuple[np.ndarray, np.ndarray]] = {}


class _Ground(NamedTuple):
    name: str
    texture: Callable
    objects: tuple[int, ...]  # object classes that are common on it


class _Object(NamedTuple):
    name: str
    shape: Callable
    texture: Callable


_OBJECTS = (
    _Object('ball', draw.disc, draw.stripes),
    _Object('crate', draw.square, draw.dots),
    _Object('kite', draw.triangle, draw.checks),
    _Object('star', draw.star, draw.rising),
    _Object('cross', draw.cross, draw.mesh),
    _Object('wheel', draw.ring, draw.falling),
)
_GROUNDS = (
    _Ground('grass', draw.blades, (0, 1, 2)),
    _Ground('sand', draw.grains, (2, 3, 4)),
    _Ground('wall', draw.bricks, (4, 5, 0)),
)


@DATASETS.register_module()
class ToyScenes:
    """Seeded scenes of textured objects on textured grounds, with masks.

    An :class:`.ImageSource` that does not need a download. An object class is a texture in a
    shape, a ground class a texture. Positions, sizes, tilts, texture periods and brightness are
    random and independent of the class; every texture consists of a dark and a bright gray, seen
    in the colored light of its image. Each ground has objects that are common on it, so that
    globally similar images share classes, as photographs do.

    Image ``i`` depends only on ``(seed, split, scene, image_size, i)``. All images are drawn when
    the data set is created (3 to 5 ms each at 96 px), so that reading one is fast. Data sets of one
    process share them: each image is drawn once, see :func:`drawn_scenes`.

    Args:
        split (str): ``'train'``, ``'memory'``, ``'val'`` or ``'test'``; disjoint random streams.
            Defaults to ``'train'``.
        num_images (int): Number of images, > 0. Defaults to 2000.
        image_size (int): Height and width in pixels, >= 32. Defaults to 96.
        scene (str): ``'scene'``: 2 or 3 objects anywhere; ``'single'``: one large object near the
            center, as in ImageNet. Defaults to ``'scene'``.
        seed (int): Seed, 0 to 2**32 - 1. Defaults to 0.
        cache_dir (str, optional): Folder that caches the drawn images (one ``.npz``) for later
            runs. Defaults to None, only that of this process.

    Raises:
        ValueError: If an argument is out of range.
    """

    CLASSES = tuple(kind.name for kind in _GROUNDS + _OBJECTS)
    PALETTE = (
        (96, 160, 64),
        (214, 190, 140),
        (150, 120, 100),
        (230, 60, 60),
        (240, 150, 40),
        (250, 230, 80),
        (150, 220, 220),
        (120, 70, 200),
        (240, 120, 200),
    )
    num_classes = len(CLASSES)

    @check_arguments(
        split=one_of(*_SPLITS),
        num_images=whole(1),
        image_size=whole(32),
        scene=one_of(*_SCENES),
        seed=whole(0, 2**32 - 1),
    )
    def __init__(
        self,
        split: str = 'train',
        num_images: int = 2000,
        image_size: int = 96,
        scene: str = 'scene',
        seed: int = 0,
        cache_dir: Optional[str] = None,
    ) -> None:
        self.split = split
        self.scene = scene
        self.seed = seed
        self.image_size = image_size
        self.images, self.labels = self._load_or_draw(num_images, cache_dir)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """Name of an image; it contains everything that the pixels depend on."""
        return f'toy/{self.split}-{self.scene}-{self.image_size}px-seed{self.seed}/{index:06d}'

    def fingerprint(self) -> str:
        """Everything that the pixels of all images depend on."""
        return f'toy v{_GENERATOR_VERSION} {self.name(len(self) - 1)}'

    @renamed_argument('enough', 'is_large_enough')
    def read(self, index: int, is_large_enough: Optional[SizePredicate] = None) -> np.ndarray:
        """Copy of an image at full size, RGB, shape (H, W, 3), uint8."""
        return self.images[index].copy()

    def label(self, index: int) -> np.ndarray:
        """Class of each pixel as an index into ``CLASSES``, shape (H, W), uint8; a copy."""
        return self.labels[index].copy()

    def _load_or_draw(
        self, num_images: int, cache_dir: Optional[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        if cache_dir is None:
            return self._draw_all(num_images)
        path = osp.join(
            cache_dir,
            f'toy_v{_GENERATOR_VERSION}_{self.split}_{self.scene}_'
            f'{num_images}x{self.image_size}px_seed{self.seed}.npz',
        )
        if osp.isfile(path):
            try:
                with np.load(path) as stored:
                    return stored['images'], stored['labels']
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                warnings.warn(
                    f'cannot read {path} ({error}); ToyScenes draws the images again', stacklevel=4
                )
        images, labels = self._draw_all(num_images)
        with atomic_write(path) as partial:  # other processes never see a partial file
            np.savez(partial, images=images, labels=labels)
        return images, labels

    def _draw_all(self, num_images: int) -> tuple[np.ndarray, np.ndarray]:
        stream = (self.seed, _SPLITS.index(self.split), _SCENES.index(self.scene))
        return drawn_scenes(stream, self.image_size, num_images)


def drawn_scenes(
    stream: tuple[int, int, int], size: int, num_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first images of a stream, or return them if this process has drawn them before.

    A run builds its image source several times: to check it, to find neighbors, to train. The
    last 8 streams are kept.

    Args:
        stream (tuple[int, int, int]): Seed, split and kind of scene.
        size (int): Height and width in pixels.
        num_images (int): Number of images.

    Returns:
        tuple[np.ndarray, np.ndarray]: Images (n, H, W, 3) and classes (n, H, W), uint8, read-only.
    """
    known = _drawn.pop((stream, size), None)
    count = 0 if known is None else len(known[0])
    if known is None or count < num_images:
        images = np.empty((num_images, size, size, 3), np.uint8)
        labels = np.empty((num_images, size, size), np.uint8)
        if known is not None:
            images[:count], labels[:count] = known
        for index in range(count, num_images):
            # Streams of RandomState are frozen across NumPy releases, those of Generator are not.
            rng = np.random.RandomState([*stream, index])
            images[index], labels[index] = draw_scene(rng, size, stream[2] == 1)
        images.flags.writeable = labels.flags.writeable = False
        known = images, labels
    _drawn[stream, size] = known  # the newest entry
    while len(_drawn) > _MOST_STREAMS:
        _drawn.pop(next(iter(_drawn)))
    return known[0][:num_images], known[1][:num_images]


def draw_scene(
    rng: np.random.RandomState, size: int, single: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image.

    Args:
        rng (np.random.RandomState): Source of randomness.
        size (int): Height and width in pixels.
        single (bool): One large object near the center instead of several anywhere.

    Returns:
        tuple[np.ndarray, np.ndarray]: Image (H, W, 3) and classes (H, W), both uint8.
    """
    rows, columns = np.mgrid[:size, :size] + 0.5
    kind = rng.randint(len(_GROUNDS))
    ground = _GROUNDS[kind]
    image = _paint(rng, ground.texture, columns, rows, size, _GROUND_CONTRAST)  # (H, W, 1)
    label = np.full((size, size), kind, np.uint8)
    for x, y, radius in _draw_positions(rng, size, single):
        kind = (
            int(rng.choice(ground.objects)) if rng.uniform() < 0.7 else rng.randint(len(_OBJECTS))
        )
        angle = rng.uniform(-_TILT, _TILT)
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        distance = _OBJECTS[kind].shape(along / radius, across / radius) * radius  # in pixels
        alpha = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        paint = _paint(rng, _OBJECTS[kind].texture, along, across, size)
        image = image + alpha * (paint - image)
        label[distance < 0.0] = len(_GROUNDS) + kind
    image = image * _light(rng, columns, rows, size)  # (H, W, 1) -> (H, W, 3)
    image = image + rng.normal(scale=2.0, size=image.shape)
    return np.clip(image.round(), 0.0, 255.0).astype(np.uint8), label


def _paint(
    rng: np.random.RandomState,
    texture: Callable,
    x: np.ndarray,
    y: np.ndarray,
    size: int,
    contrast: float = 1.0,
) -> np.ndarray:
    """Blend two random grays by a texture of random period and direction."""
    period = size * rng.uniform(0.055, 0.085)
    angle = rng.uniform(-_TILT, _TILT)
    u = (x * np.cos(angle) + y * np.sin(angle)) / period + rng.uniform(0.0, 8.0)
    v = (y * np.cos(angle) - x * np.sin(angle)) / period + rng.uniform(0.0, 8.0)
    field = 0.5 + contrast * (texture(u, v, rng)[..., None] - 0.5)
    dark, bright = 255.0 * rng.uniform(0.15, 0.35), 255.0 * rng.uniform(0.75, 0.95)
    return dark + field * (bright - dark)


def _draw_positions(
    rng: np.random.RandomState, size: int, single: bool
) -> list[tuple[float, float, float]]:
    """Centers and radii in pixels; overlaps are rare, objects may extend beyond the image."""
    if single:
        x, y = rng.uniform(0.4, 0.6, 2) * size
        return [(x, y, rng.uniform(0.28, 0.42) * size)]
    placed: list[tuple[float, float, float]] = []
    wanted = rng.randint(2, 4)
    for _ in range(4 * wanted):
        x, y = rng.uniform(0.1, 0.9, 2) * size
        radius = rng.uniform(0.22, 0.36) * size
        if all(np.hypot(x - a, y - b) > 0.8 * (radius + r) for a, b, r in placed):
            placed.append((x, y, radius))
        if len(placed) == wanted:
            break
    return placed


def _light(
    rng: np.random.RandomState, columns: np.ndarray, rows: np.ndarray, size: int
) -> np.ndarray:
    """Light of the whole image, a color that darkens to one side, shape (H, W, 3)."""
    color = np.array(
        colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.7), rng.uniform(0.4, 1.0))
    )
    angle = rng.uniform(0.0, 2.0 * np.pi)
    slope = rng.uniform(0.0, 0.1)
    side = (columns / size - 0.5) * np.cos(angle) + (rows / size - 0.5) * np.sin(angle)
    return (1.0 + slope * side)[..., None] * color
