"""Digests that tell whether the images of a source have been changed.

By default names, sizes and times of change count, which takes seconds. With the environment
variable ``COTAP_HASH_IMAGES=1`` the contents count instead: every file is read once, copies of
a folder are the same images, and so are a folder and its packed file.
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
from .value_range import Option

_OF_CONTENTS = 'contents '  # start of digests of contents
_BLOCK = 64  # images that are read between two looks at the signals


def fingerprint_of(source: Any, like: Optional[str] = None) -> str:
    """Digest of an image source that tells whether its images have been changed.

    Args:
        source (object): Image source; names alone count if it has no ``fingerprint()``.
        like (str, optional): A digest to compare with; contents are hashed if they were for
            it. Defaults to None: they are if ``COTAP_HASH_IMAGES`` says so.

    Returns:
        str: Hexadecimal digits, after a word for digests of contents; computed once for each
        object.
    """
    wanted = (
        os.environ.get('COTAP_HASH_IMAGES', '0') not in ('', '0')
        if like is None
        else like.startswith(_OF_CONTENTS)
    )
    wanted = wanted and hasattr(source, 'encoded')
    known = getattr(source, '_fingerprint', None)
    if known is None or known.startswith(_OF_CONTENTS) != wanted:
        if wanted:
            known = _hash_contents(source)
        elif hasattr(source, 'fingerprint'):
            known = source.fingerprint()
        else:
            names = '\n'.join(source.name(index) for index in range(len(source)))
            known = hashlib.sha256(name_bytes(names)).hexdigest()
        source._fingerprint = known
    return known


def range_key(value_range: Option) -> bytes:
    """What a range adds to a digest; nothing where all images have 8 bits."""
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
        except BadImage:  # missing, or too large to be read
            content = b'unreadable'
        return name_bytes(source.name(index)) + b'\0' + content + b'\n'

    digest = hashlib.sha256(range_key(source.found_range()))
    with ThreadPoolExecutor(8) as pool:  # a disk of the network answers several at a time
        for start in range(0, len(source), _BLOCK):
            if signals.received():
                raise signals.Stopped(signals.received())
            for each in pool.map(fact, range(start, min(start + _BLOCK, len(source)))):
                digest.update(each)
    return _OF_CONTENTS + digest.hexdigest()
