"""Digests of the names of images, which tell whether a neighbor file was built for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from cotap_mm.datasets.sources.names import Names


def digest_of(names: Sequence[str]) -> str:
    """Digest of names, see :meth:`.Names.digest`.

    Args:
        names (Sequence[str]): Names of images.
    """
    return (names if isinstance(names, Names) else Names(names)).digest()


def hashes_of(names: Sequence[str]) -> np.ndarray:
    """64-bit hashes of names, BLAKE2b.

    Args:
        names (Sequence[str]): Names of images, length N.

    Returns:
        np.ndarray: Shape (N,), uint64, little-endian.
    """
    names = names if isinstance(names, Names) else Names(names)
    hashes, filled = np.empty(len(names), '<u8'), 0
    for block in names.encoded_blocks():
        data = b''.join(hashlib.blake2b(name, digest_size=8).digest() for name in block)
        hashes[filled : filled + len(block)] = np.frombuffer(data, '<u8')
        filled += len(block)
    return hashes
