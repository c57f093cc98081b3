"""Supported image formats, and remedies for unsupported ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np
from mmengine.logging import print_log
from PIL import Image, features

try:  # iPhone photos; optional
    import pillow_heif

    pillow_heif.register_heif_opener()
    _HAS_HEIF = True
except ImportError:
    _HAS_HEIF = False

# Formats that Pillow supports only in some builds, and how to get them.
_OPTIONAL = {
    '.avif': (features.check('avif'), 'pip install "pillow>=11.3"'),
    '.heic': (_HAS_HEIF, 'pip install pillow-heif'),
    '.heif': (_HAS_HEIF, 'pip install pillow-heif'),
    '.hif': (_HAS_HEIF, 'pip install pillow-heif'),
    '.j2k': (features.check('jpg_2000'), 'install a Pillow with JPEG 2000'),
    '.jp2': (features.check('jpg_2000'), 'install a Pillow with JPEG 2000'),
    '.webp': (features.check('webp'), 'install a Pillow with WebP'),
}
_ALWAYS = (
    '.apng',
    '.bmp',
    '.dib',
    '.gif',
    '.jfif',
    '.jpe',
    '.jpeg',
    '.jpg',
    '.pbm',
    '.pfm',
    '.pgm',
    '.png',
    '.pnm',
    '.ppm',
    '.tif',
    '.tiff',
)

#: Lowercase suffixes of the files that are read from a folder.
IMAGE_SUFFIXES = tuple(
    sorted([*_ALWAYS, *(suffix for suffix, (can_read, _) in _OPTIONAL.items() if can_read)])
)
#: Suffixes of files whose values can have more than 8 bits.
DEEP_SUFFIXES = ('.apng', '.j2k', '.jp2', '.pfm', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff')

SAMPLED = 64  # images of these formats whose values are sampled

_CONVERT = 'convert them to JPEG, PNG or TIFF'
_AT_ONCE = 1 << 14  # names that are compared at a time, whose arrays fit into the caches
_FRAMES = 'extract their frames as JPEG or PNG'
ARCHIVE_SUFFIXES = ('.7z', '.bz2', '.gz', '.rar', '.tar', '.tgz', '.txz', '.xz', '.zip', '.zst')
# Files that users may expect to be read: skipping them is always reported.
_REMEDIES = {
    **{suffix: remedy for suffix, (can_read, remedy) in _OPTIONAL.items() if not can_read},
    **dict.fromkeys(
        (
            '.3fr',
            '.ai',
            '.arw',
            '.bpg',
            '.cr2',
            '.cr3',
            '.dcm',
            '.dng',
            '.eps',
            '.exr',
            '.fits',
            '.hdr',
            '.ico',
            '.jpc',
            '.jpf',
            '.jpx',
            '.j2c',
            '.jxl',
            '.jxr',
            '.mpo',
            '.nef',
            '.nii',
            '.npy',
            '.npz',
            '.nrw',
            '.orf',
            '.pcx',
            '.pdf',
            '.pef',
            '.psd',
            '.qoi',
            '.raf',
            '.raw',
            '.rw2',
            '.sgi',
            '.srw',
            '.svg',
            '.tga',
            '.wdp',
            '.xcf',
        ),
        _CONVERT,
    ),
    **dict.fromkeys(
        ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv'), _FRAMES
    ),
    **dict.fromkeys(ARCHIVE_SUFFIXES, 'archives are not supported, unpack them'),
    **dict.fromkeys(
        ('.h5', '.hdf5', '.lmdb', '.mdb', '.parquet', '.rec', '.tfrecord'),
        'give the packed file itself, or the folder of the images',
    ),
}

#: Never decoded, whatever the file name: these run other programs or hold no pixels.
_REFUSED = ('BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF')


def decodable_formats() -> list[str]:
    """Names of the formats that Pillow may decode."""
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED]


def suffix_of(name: str) -> str:
    """Lowercase suffix of a file name, with its dot; '' without one."""
    base = name.rpartition('/')[2]
    _, dot, suffix = base.rpartition('.')
    return (dot + suffix).lower() if dot else ''


def describe_skipped(names: Iterable[str]) -> tuple[str, str]:
    """Count the files of a folder that are not read, by their suffixes.

    Args:
        names (iterable | Counter): Names of the files, or suffix -> number of files.

    Returns:
        tuple[str, str]: A sentence about those that look like images, and one about the others;
        '' if there are none.
    """
    counts = names if isinstance(names, Counter) else Counter(map(suffix_of, names))
    images = {suffix: count for suffix, count in counts.items() if suffix in _REMEDIES}
    by_remedy: dict[str, list[str]] = {}
    for suffix, count in sorted(images.items(), key=lambda item: (-item[1], item[0])):
        by_remedy.setdefault(_REMEDIES[suffix], []).append(f'{count} {suffix}')
    loud = '; '.join(f'{", ".join(group)} ({remedy})' for remedy, group in by_remedy.items())
    rest = sum(counts.values()) - sum(images.values())
    quiet = ', '.join(
        f'{count} {suffix or "without a suffix"}'
        for suffix, count in counts.most_common()
        if suffix not in images
    )
    return (
        f'skipped {sum(images.values())} unsupported files: {loud}' if images else '',
        f'{rest} other files are not images: {quiet}' if rest else '',
    )


def report_skipped(root: str, names: Iterable[str]) -> None:
    """Log which files of a folder are skipped.

    Args:
        root (str): The folder.
        names (iterable | Counter): Names of the files, or suffix -> number of files.
    """
    loud, quiet = describe_skipped(names)
    if loud:
        print_log(f'{root}: {loud}', logger='current', level=logging.WARNING)
    if quiet:
        print_log(f'{root}: {quiet}', logger='current', level=logging.DEBUG)


def end_with(buffer: np.ndarray, starts: np.ndarray, suffixes: Iterable[str]) -> np.ndarray:
    """Whether each of many names ends with one of some suffixes, in lower or upper case.

    Args:
        buffer (np.ndarray): Bytes of the names, see :meth:`.Names.from_buffer`.
        starts (np.ndarray): Start of each name, shape (N + 1,).
        suffixes (iterable[str]): In lower case, ASCII, at least two characters each.

    Returns:
        np.ndarray: Shape (N,), bool.
    """
    found = np.zeros(len(starts) - 1, bool)
    codes = [np.frombuffer(suffix.encode('ascii'), np.uint8)[::-1] for suffix in suffixes]
    is_end = np.zeros(1 << 16, bool)  # of the last two bytes, which rule most names out
    for last, before, *_ in codes:
        is_end[[a << 8 | b for a in _both_cases(last) for b in _both_cases(before)]] = True
    for first in range(0, len(found), _AT_ONCE):
        block = starts[first : first + _AT_ONCE + 1].astype(np.intp)
        ends, lengths = block[1:] - 1, np.diff(block) - 1
        possible = np.flatnonzero(lengths >= 2)
        last, before = (buffer.take(ends[possible] - back) for back in (1, 2))
        possible = possible[is_end[last.astype(np.uint16) << 8 | before]]
        for code in codes if len(possible) else ():
            matching = possible[lengths[possible] >= len(code)]
            for back, byte in enumerate(code, 1):
                lower, *upper = _both_cases(byte)
                values = buffer[ends[matching] - back]
                is_equal = values == lower
                matching = matching[is_equal | (values == upper[0]) if upper else is_equal]
            found[first + matching] = True
    return found


def _both_cases(code: int) -> list[int]:
    """A character in lower and upper case."""
    return [*{int(code), ord(chr(code).upper())}]
