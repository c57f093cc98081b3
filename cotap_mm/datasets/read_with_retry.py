"""Read an image, and wait where not one file but all of them are out of reach."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
from mmengine.logging import print_log

from cotap_mm.datasets.sources.files import SizePredicate, UnreachableImage
from cotap_mm.errors import UserError

from .workers import ReadingSigns, sleep, warning_level

PATIENCE = 3600.0  # seconds
_PAUSES = (1, 2, 5, 10, 30, 60)  # seconds; the last one again and again


def read_with_retry(
    source: Any, index: int, enough: SizePredicate, signs: ReadingSigns, patience: float = PATIENCE
) -> np.ndarray:
    """Pixels of an image; waits while a disk of the network has gone.

    Args:
        source (object): Image source, see :mod:`cotap_mm.datasets.sources.files`.
        index (int): Of the image.
        enough (callable, optional): See :func:`cotap_mm.datasets.read_image`.
        signs (ReadingSigns): Told that this process is alive while it waits.
        patience (float): Seconds to wait. Defaults to 3600.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If this image alone cannot be read, also when it is tried again.
        UserError: If all images have been out of reach for ``patience`` seconds.
    """
    is_reachable = getattr(source, 'is_reachable', lambda: True)
    start, pauses = time.monotonic(), itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
    while True:
        try:
            return source.read(index, enough)
        except UnreachableImage as error:
            if is_reachable():
                return source.read(index, enough)  # they may have come back in between
            waited = time.monotonic() - start
            if waited > patience:
                raise UserError(
                    f'{error}: the images have been out of reach for {waited:.0f} s; '
                    'mount their disk and resume'
                ) from error
            pause = next(pauses)
            print_log(
                f'{error}: none of the images can be reached; trying again in {pause} s, '
                f'for {patience - waited:.0f} s more',
                logger='current',
                level=warning_level(),
            )
            end = time.monotonic() + pause
            while time.monotonic() < end:  # the loader's watch may be patient for less than that
                signs.alive()
                sleep(min(1.0, max(end - time.monotonic(), 0)))
