"""Values of more than 8 bits -> 0 to 255, with the contrast that they have.

Cameras store 10, 12 or 14 bits in files of 16, thermal and satellite images use a small
part of their type, and floats have any range. One range is found for a whole data set (or
for a single file), so that equal values stay equal from image to image.

The rule of ``'auto'``, for the values of up to 64 images (without NaN, infinity and the
file's own "no data" value):

1. low and high are their minimum and maximum; where the middle 99.8% of them fill less than
   half of that, its ends instead, so that a few hot pixels do not decide.
2. Where they fill more than a quarter of 0..65535 or 0..255 (floats: of 0..1 too), that is
   the range; integers that nearly reach 1023, 4095 or 16383 take 0 to that value.
3. Otherwise low to high, from 0 where low is within a tenth of high.
4. Bands of which one fills less than an eighth of the common range get a range each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import numpy as np

_MOST = 65_536  # values of an image that are looked at
_STRIP = 1 << 20  # values that are converted at a time
_HUGE = 1e30  # larger ones stand for "no data"
_INTEGER_TOPS = ((255, 0.25), (1023, 0.9), (4095, 0.9), (16383, 0.9), (65535, 0.25))
_FLOAT_TOPS = ((1, 0.25), (255, 0.25), (65535, 0.25))


class ValueRange(NamedTuple):
    """Values that become 0 and 255, one of each for all bands or one for each band.

    Attributes:
        low (tuple): Of 1 or 3 numbers.
        high (tuple): As many, each above its low.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __str__(self) -> str:
        return ', '.join(f'{low:g}..{high:g}' for low, high in zip(self.low, self.high))

    def as_option(self) -> list:
        """What a config's ``value_range`` takes for it."""
        pairs = [list(pair) for pair in zip(self.low, self.high)]
        return pairs[0] if len(pairs) == 1 else pairs


class Samples(NamedTuple):
    """Some values of one image, and all that its range may depend on.

    Attributes:
        values (np.ndarray): Shape (n, bands), float64, finite.
        lowest (np.ndarray): Minimum of the whole image, shape (bands,).
        highest (np.ndarray): Maximum, likewise.
        is_integer (bool): Whether the file stores integers.
        full (float): Lowest white of such files: 65535 for unsigned 16 bits, 255 for other
            integers, 1 for floats.
    """

    values: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    is_integer: bool
    full: float


Option = Union[None, str, Sequence[float], Sequence[Sequence[float]], ValueRange]


def check_option(option: Option) -> Option:
    """``'auto'``, None, or a :class:`ValueRange`.

    Args:
        option: ``'auto'``, None (the full range of the type), (low, high), or three such
            pairs, of red, green and blue.

    Raises:
        ValueError: If it is something else.
    """
    if (
        option is None
        or isinstance(option, ValueRange)
        or (isinstance(option, str) and option == 'auto')
    ):
        return option
    try:
        pairs = np.asarray(option, dtype=np.float64)
        pairs = pairs[None] if pairs.ndim == 1 else pairs
        if (
            pairs.shape in ((1, 2), (3, 2))
            and np.isfinite(pairs).all()
            and (pairs[:, 0] < pairs[:, 1]).all()
        ):
            return ValueRange(tuple(pairs[:, 0].tolist()), tuple(pairs[:, 1].tolist()))
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "value_range must be 'auto', None, (low, high) with low < high, or three such "
        f'pairs for red, green and blue, got {option!r}'
    )


def sample(values: np.ndarray, missing: float | None = None) -> Samples:
    """What :func:`find_range` needs of an image.

    Args:
        values (np.ndarray): Shape (H, W) or (H, W, bands).
        missing (float, optional): Value that stands for "no data". Defaults to None.
    """
    bands = values[..., None] if values.ndim == 2 else values
    is_integer = values.dtype.kind in 'iu'
    step = int(np.sqrt(max(bands[..., 0].size // _MOST, 1))) | 1  # odd, as patterns are even
    some = bands[::step, ::step].reshape(-1, bands.shape[2]).astype(np.float64)
    use = np.isfinite(some) & (np.abs(some) < _HUGE)
    if missing is not None:
        use &= some != missing
    some = some[use.all(axis=1)]
    if is_integer and missing is None and bands.size:
        ends = np.array([[each.min(), each.max()] for each in np.moveaxis(bands, 2, 0)], float).T
    elif len(some):
        ends = np.stack([some.min(axis=0), some.max(axis=0)])
    else:
        ends = np.zeros((2, bands.shape[2]))
    lowest, highest = ends
    full = 1.0 if not is_integer else 65535.0 if values.dtype == np.uint16 else 255.0
    return Samples(some, lowest, highest, is_integer, full)


def find_range(images: Sequence[Samples]) -> ValueRange:
    """Range of the values of images; see the rule at the top of this file.

    Args:
        images (sequence): One or more, of any number of bands.
    """
    is_integer = all(image.is_integer for image in images)
    bands = {image.values.shape[1] for image in images}
    together = _range_of(
        [image.values.reshape(-1) for image in images],
        min(image.lowest.min() for image in images),
        max(image.highest.max() for image in images),
        is_integer,
        images[0].full,
    )
    if bands != {3} or together == (0, 65535):
        return ValueRange((together[0],), (together[1],))
    each = [
        _range_of(
            [image.values[:, band] for image in images],
            min(image.lowest[band] for image in images),
            max(image.highest[band] for image in images),
            is_integer,
            images[0].full,
        )
        for band in range(3)
    ]
    widths = [min(high, together[1]) - max(low, together[0]) for low, high in each]
    if min(widths) < (together[1] - together[0]) / 8:
        return ValueRange(tuple(low for low, _ in each), tuple(high for _, high in each))
    return ValueRange((together[0],), (together[1],))


def is_usual(found: ValueRange) -> bool:
    """Whether a range is one that programs commonly write: a whole type, or 0 to 1."""
    return len(found.low) == 1 and found.low[0] == 0 and found.high[0] in (1, 255, 65535)


def full_range(image: Samples) -> ValueRange:
    """Range of the type that a file stores, whatever its values fill of it."""
    highest = float(image.highest.max(initial=0))
    return ValueRange((0.0,), (_top_of_one_value(highest, image.is_integer, image.full),))


def to_8_bits(values: np.ndarray, found: ValueRange) -> np.ndarray:
    """Scale values linearly, low to 0 and high to 255; others are clipped, NaN becomes 0.

    Args:
        values (np.ndarray): Shape (H, W) or (H, W, 3).
        found (ValueRange): Of one band, or of as many as the values have.

    Returns:
        np.ndarray: Shape (H, W, 3), uint8.
    """
    low, high = np.array(found.low), np.array(found.high)
    if values.ndim == 2 and len(low) == 3:  # gray among images whose bands differ
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    out = np.empty((*values.shape[:2], 3), np.uint8)
    table = (
        _scaled(np.arange(65536), low, high)
        if values.dtype == np.uint16 and len(low) == 1
        else None
    )
    rows = max(1, _STRIP // max(values[:1].size, 1))
    for top in range(0, len(values), rows):
        strip = values[top : top + rows]
        scaled = _scaled(strip, low, high) if table is None else table[strip]
        out[top : top + rows] = np.atleast_3d(scaled)
    return out


def _scaled(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    scaled = values.astype(np.float64)
    if len(low) == 1:
        low, high = low[0], high[0]
    with np.errstate(over='ignore', invalid='ignore'):
        scaled = (scaled - low) * (255 / (high - low))
    return np.clip(np.nan_to_num(scaled, nan=0).round(), 0, 255).astype(np.uint8)


def _range_of(
    values: list[np.ndarray], lowest: float, highest: float, is_integer: bool, full: float
) -> tuple[float, float]:
    low, high = float(lowest), float(highest)
    joined = np.concatenate(values)
    if len(joined):
        inner = np.percentile(joined, (0.1, 99.9))
        if inner[1] - inner[0] < (high - low) / 2 and inner[1] > inner[0]:
            low, high = float(inner[0]), float(inner[1])
    width = high - low
    if width <= 0:  # one value only has no contrast to be found
        return 0.0, _top_of_one_value(high, is_integer, full)
    if low >= 0:
        for top, share in _INTEGER_TOPS if is_integer else _FLOAT_TOPS:
            reaches = high > share * top if share > 0.5 else True
            if high <= top and width > top / 4 and reaches:
                return 0.0, float(top)
        if low <= high / 10:
            low = 0.0
    return low, high


def _top_of_one_value(value: float, is_integer: bool, full: float) -> float:
    tops = (full, 65535.0) if is_integer else (1.0, 255.0, 65535.0)
    return next((top for top in tops if value <= top), max(value, 1.0))
