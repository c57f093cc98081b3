"""Digests of the names of images, which tell whether a neighbor file was built for them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.files.atomic_write import name_bytes

_AT_ONCE = 1 << 16  # names


def names_of(source: ImageSource) -> Sequence[str]:
    """Names of all images of a source; without a copy if the source has them as one buffer."""
    names = getattr(source, 'names', None)
    if callable(getattr(names, 'digest', None)):
        return names  # type: ignore[no-any-return]
    return [source.name(index) for index in range(len(source))]


def digest_of(names: Sequence[str]) -> str:
    r"""SHA-256 of the names, separated by ``\0``, in hexadecimal digits.

    Args:
        names (Sequence[str]): Names of images; their own ``digest()`` is used if there is one.
    """
    digest = getattr(names, 'digest', None)
    if callable(digest):
        return str(digest())
    return joined_digest(names, b'\0')


def joined_digest(names: Sequence[str], separator: bytes, first: tuple[str, ...] = ()) -> str:
    """SHA-256 of ``separator.join([*first, *names])``, in bounded memory.

    Args:
        names (Sequence[str]): Names of images.
        separator (bytes): Separator.
        first (tuple[str]): Texts before the names. Defaults to ().
    """
    digest, is_first = hashlib.sha256(), True
    for block in itertools.chain([first], _blocks(names)):
        if len(block):
            digest.update((b'' if is_first else separator) + separator.join(map(name_bytes, block)))
            is_first = False
    return digest.hexdigest()


def hashes_of(names: Sequence[str]) -> np.ndarray:
    """64-bit hashes of names, BLAKE2b.

    Args:
        names (Sequence[str]): Names of images, length N.

    Returns:
        np.ndarray: Shape (N,), uint64, little-endian.
    """
    hashes = np.empty(len(names), '<u8')
    for number, block in enumerate(_blocks(names)):
        start = number * _AT_ONCE
        data = b''.join(hashlib.blake2b(name_bytes(name), digest_size=8).digest() for name in block)
        hashes[start : start + len(block)] = np.frombuffer(data, '<u8')
    return hashes


def _blocks(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield [names[index] for index in range(start, min(start + _AT_ONCE, len(names)))]
