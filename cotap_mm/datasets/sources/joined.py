"""Several image sources that are scaled from one range of values, such as train and val."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from .files import EncodedImages
from .value_range import Option


class JoinedImages(EncodedImages):
    """Image sources one after the other; from here on they share one range of values.

    A part whose own ``value_range`` is not ``'auto'`` keeps it.

    Args:
        parts (sequence[EncodedImages]): The sources.
        value_range: See :class:`ImageList`; found from the images of all parts by default.
    """

    def __init__(self, parts: Sequence[EncodedImages], value_range: Option = 'auto') -> None:
        super().__init__([name for part in parts for name in part.names], value_range)
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        for part in parts:
            part.ranges = self

    def encoded(self, index: int) -> bytes:
        part, inner = self._locate(index)
        return part.encoded(inner)

    def title(self, index: int) -> str:
        part, inner = self._locate(index)
        return part.title(inner)

    def _locate(self, index: int) -> tuple[EncodedImages, int]:
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


def share_range(datasets: Sequence[Any], value_range: Option = 'auto') -> None:
    """Let data sets be scaled from one range, found when the first of their images is read.

    Args:
        datasets (sequence): Those without ``images``, an :class:`EncodedImages`, stay as
            they are.
        value_range: See :class:`ImageList`. Defaults to ``'auto'``.

    Raises:
        ValueError: If ``value_range`` has the wrong form.
    """
    sources = [
        each.images for each in datasets if isinstance(getattr(each, 'images', None), EncodedImages)
    ]
    JoinedImages(sources, value_range)
