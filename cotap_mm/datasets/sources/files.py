"""Image files as image sources, see :class:`.ImageSource`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional, Union

import numpy as np
from mmengine.logging import print_log

from cotap_mm.deprecation import renamed_argument
from cotap_mm.files.atomic_write import printable
from cotap_mm.progress import Progress
from cotap_mm.registry import DATASETS

from .decoding import (
    BadImage,
    UnreachableImage,
    decode_image,
    read_image,
    read_image_bytes,
    sample_image,
    to_rgb,
)
from .fingerprints import fingerprint_of, range_key
from .formats import DEEP_SUFFIXES, IMAGE_SUFFIXES, SAMPLED, suffix_of
from .listing import find_images, is_file, listed_images
from .names import Names, paths_of
from .protocol import SizePredicate, prepare
from .value_range import Option, Samples, ValueRange, check_option, find_range, is_usual

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
    'read_image_bytes',
    'to_rgb',
]
_BLOCK = 1024  # files whose status one thread reads
_THREADS = 8
_SHOWN = 10_000  # files from which on their progress is shown
_WAITING = 64  # blocks that wait for a thread or for their turn


class EncodedImages:
    """Base of the image sources that hold the contents of image files.

    Args:
        names (sequence[str]): Name of each image.
        value_range: See :class:`ImageList`.

    Attributes:
        names (Names): Names of all images, which workers do not copy.
        ranges (EncodedImages, optional): Source whose range is used instead, see
            :class:`JoinedImages`.
    """

    def __init__(self, names: Sequence[str], value_range: Option = 'auto') -> None:
        self.names = names if isinstance(names, Names) else Names(names)
        self.ranges: Optional[EncodedImages] = None
        self.value_range = check_option(value_range)
        self._found: Optional[tuple[Option]] = None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name of an image relative to the root, with forward slashes."""
        return self.names[index]

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image file; raises :class:`BadImage` if it cannot be read."""
        raise NotImplementedError

    def title(self, index: int) -> str:
        """Return the path of an image, for messages."""
        raise NotImplementedError

    def may_be_deep(self, index: int) -> bool:
        """Whether the format of an image can have more than 8 bits."""
        return suffix_of(self.name(index)) in DEEP_SUFFIXES

    def some_deep(self, most: int) -> list[int]:
        """Indices of evenly spaced images for which :meth:`may_be_deep`, at most ``most``."""
        return self.names.some_ending(DEEP_SUFFIXES, most)

    def samples(self, index: int) -> Optional[Samples]:
        """Sample the values of an image for :func:`.find_range`; None if it has 8 bits."""
        return sample_image(self.encoded(index))

    @renamed_argument('enough', 'is_large_enough')
    def read(self, index: int, is_large_enough: Optional[SizePredicate] = None) -> np.ndarray:
        """Decode an image, see :meth:`.ImageSource.read`."""
        return decode_image(
            self.encoded(index), is_large_enough, self.title(index), self.found_range()
        )

    @property
    def returns_decoded(self) -> bool:
        """Whether :meth:`read` returns what the decoder returns; not if a subclass changes it."""
        return type(self).read is EncodedImages.read

    def found_range(self) -> Option:
        """Value range that all images are scaled from; determined once and logged.

        It follows from up to 64 images, evenly spread over those whose format can have more
        than 8 bits, so that every process determines the same range.

        Returns:
            Option: ``value_range`` if it is set; otherwise a :class:`ValueRange`, or ``'auto'``,
            each file separately, if none of these images has more than 8 bits.
        """
        if not (isinstance(self.value_range, str) and self.value_range == 'auto'):
            return self.value_range
        if self.ranges is not None:
            return self.ranges.found_range()
        if self._found is None:
            kept = self.some_deep(SAMPLED)
            samples, is_complete = [], True
            for index in kept:
                try:
                    values = self.samples(index)
                except UnreachableImage:
                    is_complete = False
                except Exception:  # damaged, which is reported when the image is read
                    pass
                else:
                    samples += [] if values is None else [values]
            result: Option = find_range(samples) if samples else 'auto'
            if not samples and not is_complete:
                return result  # the disk is unreachable; tried again at the next image
            self._found = (result,)
            self._report(result, len(samples), len(kept))
        return self._found[0]

    def _report(self, value_range: Option, deep: int, sampled: int) -> None:
        if not isinstance(value_range, ValueRange):
            return
        level = logging.INFO if is_usual(value_range) else logging.WARNING
        print_log(
            f'{deep} of {sampled} sampled images have more than 8 bits; their values '
            f'{value_range} become 0..255 in all images. Set value_range=(low, high) or '
            '--value-range LOW HIGH if that is not what you want',
            logger='current',
            level=level,
        )


@DATASETS.register_module()
class ImageList(EncodedImages):
    """Image files: a folder, a text list, or a COCO json.

    A folder is read recursively (following links, skipping hidden files) and sorted by name; a
    list keeps its order. An index therefore means the same image on every machine. Files of a
    folder that are skipped are counted in the log.

    Args:
        root (str | Path): Folder that names are relative to; or a text list or json itself,
            whose names are then relative to its folder.
        ann_file (str | Path, optional): A text file with one name per line, or a COCO json whose
            ``images`` have a ``file_name``.
        value_range (str | tuple, optional): How values of more than 8 bits become 0 to 255;
            (low, high), or three such pairs for red, green and blue; ``'auto'`` derives it from
            the data set, see :mod:`.value_range`; None uses the full range of the type. Images
            with 8 bits are not changed. Defaults to ``'auto'``.

    Attributes:
        links (Names): Links of a folder that lead to a folder which is read already, such as their
            own parent; they are not followed.

    Raises:
        FileNotFoundError: If the folder or the list does not exist, or has no images.
        ValueError: If the list has the wrong form or contains an image twice.
    """

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
        names: Sequence[str]
        if ann_file is None:
            names, _, self.links = find_images(self.root)
        else:
            names, self.links = listed_images(Path(ann_file).expanduser(), self.root), Names()
        super().__init__(names, value_range)

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image file."""
        return read_image_bytes(os.path.join(self.root, self.names[index]))

    def title(self, index: int) -> str:
        """Return the path of an image, for messages."""
        return os.path.join(self.root, self.names[index])

    def fingerprint(self) -> str:
        """Digest of names, sizes and modification times; reads the status of every file."""
        return _digest_of_files(str(self.root), self.names, self.found_range())

    def is_reachable(self) -> bool:
        """Whether any of a few images exists; False if a network disk is gone."""
        some = self.names[:: max(len(self.names) // 8, 1)]
        return any(is_file(self.root / name) for name in some)


class ImageFiles(EncodedImages):
    """Image files of any folders, in the given order.

    Args:
        paths (sequence): The files.
        value_range: See :class:`ImageList`.
    """

    def __init__(self, paths: Sequence[Union[str, Path]], value_range: Option = 'auto') -> None:
        super().__init__([str(path) for path in paths], value_range)

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image file."""
        return read_image_bytes(self.names[index])

    def title(self, index: int) -> str:
        """Return the path of an image, for messages."""
        return self.names[index]

    def fingerprint(self) -> str:
        """Digest of paths, sizes and modification times; reads the status of every file."""
        return _digest_of_files('', self.names, self.found_range())


def _digest_of_files(root: str, names: Names, value_range: Option) -> str:
    """Digest of names, sizes and modification times of files."""
    digest = hashlib.sha256(range_key(value_range))
    is_shown = None if len(names) > _SHOWN else False
    with (
        ThreadPoolExecutor(_THREADS) as pool,  # a network disk serves several requests at a time
        Progress(len(names), 'status of image files', show=is_shown) as progress,
    ):
        for first in range(0, len(names), _BLOCK * _WAITING):
            blocks = names[first : first + _BLOCK * _WAITING].encoded_blocks(_BLOCK)
            for facts in pool.map(lambda block: _file_facts(root, block), blocks):
                digest.update(facts)
            progress.update(min(_BLOCK * _WAITING, len(names) - first))
    return digest.hexdigest()


def _file_facts(root: str, names: list[bytes]) -> bytes:
    """Name, size and modification time of files, one per line."""
    lines = []
    for name, path in zip(names, paths_of(root, names)):
        try:
            status = os.stat(path)
            lines.append(b'%b\0%d %d\n' % (name, status.st_size, status.st_mtime_ns))
        except (OSError, ValueError):
            lines.append(name + b'\0missing\n')
    return b''.join(lines)
