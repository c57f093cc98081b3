"""Read an image; wait and retry while all images of its source are unreachable."""

from __future__ import annotations

import time
from typing import Callable, Optional

import numpy as np
from mmengine.logging import print_log

from cotap_mm.datasets.sources.decoding import UnreachableImage
from cotap_mm.datasets.sources.protocol import ImageSource, SizePredicate
from cotap_mm.errors import UserError

from .workers import ReadingSigns, sleep, warning_level

PATIENCE = 3600.0  # seconds
_PAUSES = (1, 2, 5, 10, 30, 60)  # seconds; the last one is repeated


def read_with_retry(
    source: ImageSource,
    index: int,
    is_large_enough: Optional[SizePredicate],
    signs: ReadingSigns,
    patience: float = PATIENCE,
) -> np.ndarray:
    """Read an image; wait and retry while a network disk is gone.

    Args:
        source (ImageSource): The images.
        index (int): Index of the image.
        is_large_enough (callable, optional): See :meth:`.ImageSource.read`.
        signs (ReadingSigns): Records that this process is alive while it waits.
        patience (float): Maximum wait in seconds. Defaults to 3600.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), uint8.

    Raises:
        BadImage: If only this image cannot be read, after a second attempt.
        UserError: If all images have been unreachable for ``patience`` seconds.
    """
    return retry(
        lambda: source.read(index, is_large_enough),
        UnreachableImage,
        getattr(source, 'is_reachable', lambda: True),
        'images',
        signs,
        patience,
    )


def retry(
    read: Callable[[], np.ndarray],
    unreachable: type[Exception],
    is_reachable: Callable[[], bool],
    what: str,
    signs: ReadingSigns,
    patience: float = PATIENCE,
) -> np.ndarray:
    """Read; wait and retry while a network disk is gone.

    Args:
        read (callable): Reads.
        unreachable (type): Its exception if the disk may be gone.
        is_reachable (callable): Returns whether the disk is there.
        what (str): What is read, for messages, in the plural.
        signs (ReadingSigns): Records that this process is alive while it waits.
        patience (float): Maximum wait in seconds. Defaults to 3600.

    Returns:
        np.ndarray: What was read.

    Raises:
        UserError: If the disk has been unreachable for ``patience`` seconds.
    """
    start, pauses = time.monotonic(), iter(_PAUSES)
    while True:
        try:
            return read()
        except unreachable as error:
            if is_reachable():
                return read()  # may be reachable again by now
            waited = time.monotonic() - start
            if waited > patience:
                raise UserError(
                    f'{error}: the {what} have been unreachable for {waited:.0f} s; '
                    'mount their disk and resume'
                ) from error
            pause = next(pauses, _PAUSES[-1])
            print_log(
                f'{error}: none of the {what} is reachable; retrying in {pause} s, '
                f'for another {patience - waited:.0f} s',
                logger='current',
                level=warning_level(),
            )
            end = time.monotonic() + pause
            while time.monotonic() < end:  # the limit of LoaderWatch may be shorter than the pause
                signs.alive()
                sleep(min(1.0, max(end - time.monotonic(), 0)))
