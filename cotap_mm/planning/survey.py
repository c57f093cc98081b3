"""Look at a sample of images: sizes, color, damage, similarity, and time to read them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from cotap_mm.datasets import ImageList, MultiCrop
from cotap_mm.datasets.sources.decoding import (
    BadImage,
    UnreachableImage,
    decode_image,
    image_header,
)
from cotap_mm.datasets.sources.files import EncodedImages
from cotap_mm.datasets.sources.value_range import ValueRange
from cotap_mm.ops.sampling import evenly_spaced

from .near_duplicates import THUMBNAIL, is_blank, similar_pairs, thumbnail_of

#: Images that are decoded of a larger set.
SAMPLE = 400
_TIMED = 32  # images whose reading is timed
_TIME_LIMIT = 3.0  # seconds


@dataclass
class Look:
    """What one image file is.

    Attributes:
        index (int): Its index in the source.
        name (str): Its name.
        height (int): Height in pixels; 0 if it is unknown.
        width (int): Width in pixels.
        mode (str): Pillow's mode, such as 'RGB' or 'L'.
        is_deep (bool): Whether its values have more than 8 bits.
        error (str): Why it cannot be decoded; '' if it can.
        is_unreachable (bool): Whether its file could not be read at all.
        thumbnail (np.ndarray, optional): See :func:`.thumbnail_of`.
    """

    index: int
    name: str
    height: int = 0
    width: int = 0
    mode: str = ''
    is_deep: bool = False
    error: str = ''
    is_unreachable: bool = False
    thumbnail: Optional[np.ndarray] = None


@dataclass
class Survey:
    """What a sample of a set of images shows.

    Attributes:
        path (str): Folder, list or packed file.
        count (int): Number of images in the whole set.
        looks (list[Look]): The decoded images.
        links (list[str]): Links of the folder that lead to a folder which is read already.
        value_range (str): Range of the values of images with more than 8 bits; '' without any.
        duplicates (list[tuple[str, str]]): Names of nearly identical images.
        consecutive (tuple[int, int]): Number of nearly identical images among consecutive ones,
            and number of consecutive pairs that were compared.
        blank (list[str]): Names of images of one color.
        seconds_per_image (float): Time to decode and crop an image on one core; 0 if unknown.
    """

    path: str
    count: int
    looks: list[Look] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    value_range: str = ''
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    consecutive: tuple[int, int] = (0, 0)
    blank: list[str] = field(default_factory=list)
    seconds_per_image: float = 0.0

    @property
    def good(self) -> list[Look]:
        """The images that can be decoded."""
        return [look for look in self.looks if not look.error]

    @property
    def bad(self) -> list[Look]:
        """The images that cannot be decoded."""
        return [look for look in self.looks if look.error]

    def shorter_sides(self) -> np.ndarray:
        """Shorter side of each good image in pixels, sorted, shape (n,)."""
        return np.sort(np.array([min(look.height, look.width) for look in self.good], int))

    def modes(self) -> Counter[str]:
        """Number of good images for each mode of Pillow."""
        return Counter(look.mode for look in self.good)


def sample_indices(count: int, sample: int = SAMPLE) -> list[int]:
    """Choose the images to decode: the same ones in every run.

    Half of them are evenly spaced, and each is followed by its successor, since the successive
    frames of a video have successive names.

    Args:
        count (int): Number of images.
        sample (int): Largest number of indices. Defaults to 400.

    Returns:
        list[int]: Increasing indices; all of them if there are not more than ``sample``.
    """
    if count <= sample:
        return list(range(count))
    starts = evenly_spaced(count, max(sample // 2, 1))
    return sorted({each for start in starts for each in (start, min(start + 1, count - 1))})


def survey_images(
    source: EncodedImages,
    path: str,
    sample: int = SAMPLE,
    crops: Optional[dict[str, Any]] = None,
    progress: Any = None,
) -> Survey:
    """Decode a sample of images and describe them.

    Args:
        source (EncodedImages): The images.
        path (str): Where they come from.
        sample (int): Largest number of images to decode. Defaults to 400.
        crops (dict, optional): Options of :class:`.MultiCrop` of the training, whose time is
            measured. Defaults to None, those of the class.
        progress (callable, optional): Wraps the iterator over the images. Defaults to None.

    Returns:
        Survey: The description.
    """
    value_range = source.found_range()
    indices = sample_indices(len(source), sample)

    def look(index: int) -> Look:
        return look_at(source, index)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looking: Iterable[Look] = pool.map(look, indices)
        looks = list(looking if progress is None else progress(looking, len(indices)))
    good = [each for each in looks if each.thumbnail is not None]
    shown = [each for each in good if not is_blank(each.thumbnail)]
    pairs = similar_pairs(np.stack([each.thumbnail for each in shown])) if len(shown) > 1 else []
    alike = {(shown[i].index, shown[j].index) for i, j in pairs}
    following = [(a.index, b.index) for a, b in zip(shown, shown[1:]) if b.index == a.index + 1]
    return Survey(
        path=path,
        count=len(source),
        looks=looks,
        links=list(source.links) if isinstance(source, ImageList) else [],
        value_range=str(value_range) if isinstance(value_range, ValueRange) else '',
        duplicates=[(shown[i].name, shown[j].name) for i, j in pairs],
        consecutive=(sum(pair in alike for pair in following), len(following)),
        blank=[each.name for each in good if is_blank(each.thumbnail)],
        seconds_per_image=time_reading(source, [each.index for each in good], crops),
    )


def look_at(source: EncodedImages, index: int) -> Look:
    """Decode one image, at a reduced size if its format allows it."""
    look = Look(index, source.name(index))
    try:
        data = source.encoded(index)
        pixels = decode_image(data, _is_enough, source.title(index), source.found_range())
        header = image_header(data)
    except BadImage as error:
        look.error, look.is_unreachable = str(error), isinstance(error, UnreachableImage)
        return look
    look.height, look.width, look.is_deep, look.mode = header
    look.thumbnail = thumbnail_of(pixels)
    return look


def _is_enough(height: int, width: int) -> bool:
    return min(height, width) >= 2 * THUMBNAIL


def time_reading(
    source: EncodedImages, indices: list[int], crops: Optional[dict[str, Any]] = None
) -> float:
    """Seconds to read, decode and crop an image as a training does, on one core.

    Args:
        source (EncodedImages): The images.
        indices (list[int]): Images that can be decoded.
        crops (dict, optional): Options of :class:`.MultiCrop`. Defaults to None.

    Returns:
        float: Median over up to 32 images; 0 if there are none.
    """
    crop = MultiCrop(**(crops or {}))
    rng = np.random.default_rng(0)
    seconds: list[float] = []
    for index in _within(_TIME_LIMIT, [indices[i] for i in evenly_spaced(len(indices), _TIMED)]):
        start = time.perf_counter()
        try:
            crop(source.read(index, crop.is_large_enough), rng)
        except BadImage:
            continue
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) if seconds else 0.0


def _within(seconds: float, items: list[int]) -> Iterator[int]:
    """Yield items until the time is over, and at least one."""
    end = time.perf_counter() + seconds
    for item in items:
        yield item
        if time.perf_counter() > end:
            return
