"""Lists of images, and reading one robustly.

An image source is any object with ``len(source)``, ``name(i)``, a name that is unique
and stays the same from run to run, and ``read(i, enough)``, pixels of shape (H, W, 3),
uint8 RGB, which raises :class:`BadImage` where there are none. ``enough(height, width)``
says whether an image of that size would do; then a source may return it at a half, a
quarter or an eighth of its sides, if that is faster. It may have ``is_reachable()``, whether
its files can be reached at all; where they cannot, readers wait. It may have
``fingerprint()``, which changes with its images; see :func:`fingerprint_of`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from mmengine.logging import print_log

from cotap_mm.files.atomic_write import UnusableFile, name_bytes, printable, read_regular
from cotap_mm.registry import DATASETS

from .decoding import (
    MAX_IMAGE_BYTES,
    BadImage,
    SizePredicate,
    UnreachableImage,
    decode_image,
    sample_image,
    to_rgb,
)
from .fingerprints import fingerprint_of, range_key
from .formats import DEEP_SUFFIXES, IMAGE_SUFFIXES, suffix_of
from .listing import find_images, is_file, listed_images
from .value_range import Option, ValueRange, check_option, find_range, is_usual

__all__ = [
    'IMAGE_SUFFIXES',
    'BadImage',
    'EncodedImages',
    'SizePredicate',
    'ImageFiles',
    'ImageList',
    'UnreachableImage',
    'decode_image',
    'fingerprint_of',
    'prepare',
    'range_key',
    'read_image',
    'to_rgb',
]
_BLOCK = 1024  # files that one thread asks the disk for
_SAMPLED = 64  # images whose values are looked at


def read_image(
    path: Union[str, Path], enough: SizePredicate = None, value_range: Option = 'auto'
) -> np.ndarray:
    """Read any image file as RGB.

    Grayscale, CMYK and palette images are converted, transparency is dropped, and the
    camera's orientation (EXIF) is applied. Of a file with several images the first is read.
    Values of more than 8 bits are scaled, see :mod:`cotap_mm.datasets.sources.value_range`.

    Args:
        path (str | Path): The file.
        enough (callable, optional): ``enough(height, width)`` says whether an image of
            that size will do. A JPEG is decoded at an eighth, a quarter or a half of its
            sides if so, which saves most of the work. Defaults to None, full size.
        value_range: Values that become 0 and 255 where there are more than 8 bits; see
            :class:`ImageList`. Defaults to ``'auto'``, from this file.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If the file is truncated, too large, or not an image.
        UnreachableImage: The same where the file is missing or the disk fails.
    """
    return decode_image(read_image_bytes(path), enough, path, value_range)


def read_image_bytes(path: Union[str, Path]) -> bytes:
    """Content of an image file; errors as of :func:`read_image`."""
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except UnusableFile as error:
        raise BadImage(str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UnreachableImage(f'{printable(path)}: {type(error).__name__}: {error}') from error


def prepare(source: Any) -> Option:
    """Find the range of values of a source before other processes get copies of it.

    Returns:
        See :meth:`EncodedImages.found_range`; ``'auto'`` for a source without one.
    """
    return source.found_range() if hasattr(source, 'found_range') else 'auto'


class EncodedImages:
    """Base of sources that hold the contents of image files.

    Args:
        names (list[str]): Name of each image.
        value_range: See :class:`ImageList`.

    Attributes:
        ranges (EncodedImages, optional): Source whose range is taken, see
            :class:`JoinedImages`.
    """

    def __init__(self, names: list[str], value_range: Option = 'auto') -> None:
        self.names = names
        self.ranges: Optional[EncodedImages] = None
        self.value_range = check_option(value_range)
        self._found: Optional[tuple[Option]] = None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name of an image relative to the root, with forward slashes."""
        return self.names[index]

    def encoded(self, index: int) -> bytes:
        """Content of an image's file; raises :class:`BadImage` where it cannot be read."""
        raise NotImplementedError

    def title(self, index: int) -> str:
        """Where an image comes from, for messages."""
        raise NotImplementedError

    def read(self, index: int, enough: SizePredicate = None) -> np.ndarray:
        """Pixels (H, W, 3), uint8; see :func:`read_image`; raises :class:`BadImage`."""
        return decode_image(self.encoded(index), enough, self.title(index), self.found_range())

    def found_range(self) -> Option:
        """The range of values that all images are scaled from, found once and logged.

        It follows from up to 64 images, evenly spread over those whose format can have more
        than 8 bits, so that every process finds the same.

        Returns:
            What ``value_range`` has if it is set; else a :class:`ValueRange`, or ``'auto'``,
            each file by itself, where none of these images has more than 8 bits.
        """
        if not (isinstance(self.value_range, str) and self.value_range == 'auto'):
            return self.value_range
        if self.ranges is not None:
            return self.ranges.found_range()
        if self._found is None:
            deep = [
                index for index, name in enumerate(self.names) if suffix_of(name) in DEEP_SUFFIXES
            ]
            kept = [
                deep[i * len(deep) // min(len(deep), _SAMPLED)]
                for i in range(min(len(deep), _SAMPLED))
            ]
            samples, is_complete = [], True
            for index in kept:
                try:
                    found = sample_image(self.encoded(index))
                except UnreachableImage:
                    is_complete = False
                except Exception:  # damaged, which is said where it is read
                    pass
                else:
                    samples += [] if found is None else [found]
            result: Option = find_range(samples) if samples else 'auto'
            if not samples and not is_complete:
                return result  # a disk that has gone; asked again at the next image
            self._found = (result,)
            self._report(result, len(samples), len(kept))
        return self._found[0]

    def _report(self, found: Option, deep: int, looked_at: int) -> None:
        if not isinstance(found, ValueRange):
            return
        level = logging.INFO if is_usual(found) else logging.WARNING
        print_log(
            f'{deep} of {looked_at} images that were looked at have more than 8 bits; their '
            f'values {found} become 0..255 in all images. Set value_range=(low, high) or '
            '--value-range LOW HIGH if that is not what you want',
            logger='current',
            level=level,
        )


@DATASETS.register_module()
class ImageList(EncodedImages):
    """Image files: a folder, a text list, or a COCO json.

    A folder is read recursively (through links, without hidden files) and sorted by
    name; a list keeps its order. So an index means the same on every machine. Files of a
    folder that are not read are counted in the log.

    Args:
        root (str | Path): Folder that names are relative to; or a text list or json
            itself, whose names are then relative to the folder it is in.
        ann_file (str | Path, optional): A text file with one name a line, or a COCO
            json whose ``images`` have a ``file_name``.
        value_range (str | tuple, optional): How values of more than 8 bits become 0 to 255;
            (low, high), or three such pairs for red, green and blue; ``'auto'`` finds it from
            the data set, see :mod:`.value_range`; None takes the full range of the type. Images with 8 bits stay as they are. Defaults to ``'auto'``.

    Raises:
        FileNotFoundError: If the folder or the list does not exist, or has no image.
        ValueError: If the list has the wrong form or names an image twice.
    """  # noqa: E501

    def __init__(
        self,
        root: Union[str, Path],
        ann_file: Optional[Union[str, Path]] = None,
        value_range: Option = 'auto',
    ) -> None:
        self.root = Path(root).expanduser()
        if ann_file is None and self.root.exists() and not self.root.is_dir():
            self.root, ann_file = self.root.parent, self.root
        if not self.root.is_dir():
            what = 'is not a folder' if self.root.exists() else 'does not exist'
            raise FileNotFoundError(
                f'image folder {printable(root)} {what}; give an existing '
                'folder, e.g. with --images DIR'
            )
        names = (
            find_images(self.root)
            if ann_file is None
            else listed_images(Path(ann_file).expanduser(), self.root)
        )
        super().__init__(names, value_range)

    def encoded(self, index: int) -> bytes:
        return read_image_bytes(self.root / self.names[index])

    def title(self, index: int) -> str:
        return str(self.root / self.names[index])

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of change; asks the disk for each file."""
        digest = hashlib.sha256(range_key(self.found_range()))
        blocks = [self.names[i : i + _BLOCK] for i in range(0, len(self.names), _BLOCK)]
        with ThreadPoolExecutor(8) as pool:  # a disk of the network answers several at a time
            for facts in pool.map(lambda block: _file_facts(str(self.root), block), blocks):
                digest.update(facts)
        return digest.hexdigest()

    def is_reachable(self) -> bool:
        """Whether the folder is, with images in it; a disk of the network may have gone."""
        some = self.names[:: max(len(self.names) // 8, 1)]
        return any(is_file(self.root / name) for name in some)


class ImageFiles(EncodedImages):
    """Image files of any folders, in the order that they are given.

    Args:
        paths (sequence): The files.
        value_range: See :class:`ImageList`.
    """

    def __init__(self, paths: Sequence[Union[str, Path]], value_range: Option = 'auto') -> None:
        super().__init__([str(path) for path in paths], value_range)

    def encoded(self, index: int) -> bytes:
        return read_image_bytes(self.names[index])

    def title(self, index: int) -> str:
        return self.names[index]


def _file_facts(root: str, names: list[str]) -> bytes:
    """Name, size and time of change of files, one a line."""
    lines = []
    for name in names:
        try:
            found = os.stat(os.path.join(root, name))
            facts = f'{found.st_size} {found.st_mtime_ns}'
        except OSError:
            facts = 'missing'
        lines.append(name_bytes(name) + f'\0{facts}\n'.encode())
    return b''.join(lines)
