"""Scale several image sources, such as train and val, from one value range."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from .files import EncodedImages
from .names import Names
from .value_range import Option


class JoinedImages(EncodedImages):
    """Concatenated image sources that share one value range.

    Creating it also changes the parts: each takes its range from here, unless its own
    ``value_range`` is not ``'auto'``.

    Args:
        parts (sequence[EncodedImages]): The sources.
        value_range: See :class:`ImageList`; by default derived from the images of all parts.
    """

    def __init__(self, parts: Sequence[EncodedImages], value_range: Option = 'auto') -> None:
        super().__init__(Names.concatenate([part.names for part in parts]), value_range)
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        for part in parts:
            part.ranges = self

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image file."""
        part, inner = self._locate(index)
        return part.encoded(inner)

    def title(self, index: int) -> str:
        """Return the path of an image, for messages."""
        part, inner = self._locate(index)
        return part.title(inner)

    def _locate(self, index: int) -> tuple[EncodedImages, int]:
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


def share_range(datasets: Sequence[Any], value_range: Option = 'auto') -> None:
    """Scale data sets from one value range, determined when their first image is read.

    Args:
        datasets (sequence): Data sets; those without an attribute ``images`` of type
            :class:`EncodedImages` are not changed.
        value_range: See :class:`ImageList`. Defaults to ``'auto'``.

    Raises:
        ValueError: If ``value_range`` has the wrong form.
    """
    sources = [getattr(dataset, 'images', None) for dataset in datasets]
    JoinedImages([part for part in sources if isinstance(part, EncodedImages)], value_range)
