"""Digests that detect whether the images of a source have been changed.

By default they depend on names, sizes and modification times, which takes seconds. With the
environment variable ``COTAP_HASH_IMAGES=1`` they depend on names and contents: every file is read
once, and a copy of a folder or its packed file has the same digest as the folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from mmengine.logging import print_log

from cotap_mm import signals
from cotap_mm.files.atomic_write import name_bytes

from .decoding import BadImage
from .names import names_of
from .protocol import ImageSource
from .value_range import Option

_CONTENTS_PREFIX = 'contents '  # start of digests of contents
_BLOCK = 64  # images that are read between two checks for signals


def fingerprint_of(source: ImageSource, like: Optional[str] = None) -> str:
    """Digest of an image source that detects whether its images have been changed.

    Args:
        source (ImageSource): The images; only names are hashed if it has no ``fingerprint()``.
        like (str, optional): A digest to compare with; contents are hashed if they were hashed
            for it. Defaults to None, which hashes contents if ``COTAP_HASH_IMAGES`` is set.

    Returns:
        str: Hexadecimal digits, with a prefix for digests of contents; computed once per object.
    """
    hash_contents = (
        os.environ.get('COTAP_HASH_IMAGES', '0') not in ('', '0')
        if like is None
        else like.startswith(_CONTENTS_PREFIX)
    )
    hash_contents = hash_contents and hasattr(source, 'encoded')
    digest: Optional[str] = getattr(source, '_fingerprint', None)
    if digest is None or digest.startswith(_CONTENTS_PREFIX) != hash_contents:
        if hash_contents:
            digest = _hash_contents(source)
        elif hasattr(source, 'fingerprint'):
            digest = str(source.fingerprint())
        else:
            digest = names_of(source).digest(b'\n')
        source._fingerprint = digest  # type: ignore[attr-defined]
    return digest


def range_key(value_range: Option) -> bytes:
    """Contribution of a value range to a digest; empty if all images have 8 bits."""
    return b'' if isinstance(value_range, str) else f'{value_range}\n'.encode()


def _hash_contents(source: Any) -> str:
    print_log(
        f'hashing the contents of {len(source)} images (COTAP_HASH_IMAGES)',
        logger='current',
        level=logging.INFO,
    )

    def fact(index: int) -> bytes:
        try:
            content = hashlib.sha256(source.encoded(index)).digest()
        except BadImage:  # missing, or larger than the limit
            content = b'unreadable'
        return name_bytes(source.name(index)) + b'\0' + content + b'\n'

    digest = hashlib.sha256(range_key(source.found_range()))
    with ThreadPoolExecutor(8) as pool:  # a network disk serves several requests at a time
        for start in range(0, len(source), _BLOCK):
            if signals.received():
                raise signals.Stopped(signals.received())
            for line in pool.map(fact, range(start, min(start + _BLOCK, len(source)))):
                digest.update(line)
    return _CONTENTS_PREFIX + digest.hexdigest()
