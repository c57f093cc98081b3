"""Scale values of more than 8 bits to 0..255 and keep their contrast.

Cameras store 10, 12 or 14 bits in 16-bit files, thermal and satellite images use a small part of
the range of their type, and floats have any range. One range is derived for a whole data set (or
for a single file), so that equal values stay equal across images.

The rule of ``'auto'``, for the values of up to 64 images (without NaN, infinity and the file's own
"no data" value):

1. low and high are the minimum and maximum. If the middle 99.8% of the values span less than half
   of that, low and high are the ends of this span, so that a few hot pixels do not matter.
2. If the values span more than a quarter of 0..65535 or 0..255 (floats: also of 0..1), that is the
   range; for integers that nearly reach 1023, 4095 or 16383 it is 0 to that value.
3. Otherwise the range is low to high, or 0 to high if low is at most a tenth of high.
4. If one of three bands spans less than an eighth of the common range, each band gets its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import numpy as np

_SAMPLED = 65_536  # values of an image that are sampled
_STRIP = 1 << 20  # values converted at a time
_HUGE = 1e30  # larger values mean "no data"
_INTEGER_TOPS = ((255, 0.25), (1023, 0.9), (4095, 0.9), (16383, 0.9), (65535, 0.25))
_FLOAT_TOPS = ((1, 0.25), (255, 0.25), (65535, 0.25))


class ValueRange(NamedTuple):
    """Values that become 0 and 255, one pair for all bands or one pair per band.

    Attributes:
        low (tuple[float, ...]): 1 or 3 numbers.
        high (tuple[float, ...]): As many numbers, each greater than its low.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __str__(self) -> str:
        return ', '.join(f'{low:g}..{high:g}' for low, high in zip(self.low, self.high))

    def as_option(self) -> list:
        """Convert to the form that ``value_range`` has in a config."""
        pairs = [list(pair) for pair in zip(self.low, self.high)]
        return pairs[0] if len(pairs) == 1 else pairs


class Samples(NamedTuple):
    """Sampled values of one image and everything else that its range depends on.

    Attributes:
        values (np.ndarray): Shape (n, bands), float64, finite.
        lowest (np.ndarray): Minimum of the whole image, shape (bands,).
        highest (np.ndarray): Maximum of the whole image, shape (bands,).
        is_integer (bool): Whether the file stores integers.
        full (float): Smallest white value of such files: 65535 for unsigned 16 bits, 255 for
            other integers, 1 for floats.
    """

    values: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    is_integer: bool
    full: float


Option = Union[None, str, Sequence[float], Sequence[Sequence[float]], ValueRange]


def check_option(option: Option) -> Option:
    """Validate a ``value_range`` option and convert pairs to a :class:`ValueRange`.

    Args:
        option: ``'auto'``, None (the full range of the type), (low, high), or three such
            pairs for red, green and blue.

    Returns:
        Option: ``'auto'``, None, or a :class:`ValueRange`.

    Raises:
        ValueError: If the option is something else.
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
    """Sample the values of an image for :func:`find_range`.

    Args:
        values (np.ndarray): Shape (H, W) or (H, W, bands).
        missing (float, optional): Value that means "no data". Defaults to None.
    """
    bands = values[..., None] if values.ndim == 2 else values
    is_integer = values.dtype.kind in 'iu'
    step = int(np.sqrt(max(bands[..., 0].size // _SAMPLED, 1))) | 1  # odd: periods are often even
    some = bands[::step, ::step].reshape(-1, bands.shape[2]).astype(np.float64)
    use = np.isfinite(some) & (np.abs(some) < _HUGE)
    if missing is not None:
        use &= some != missing
    some = some[use.all(axis=1)]
    if is_integer and missing is None and bands.size:
        ends = np.array([[band.min(), band.max()] for band in np.moveaxis(bands, 2, 0)], float).T
    elif len(some):
        ends = np.stack([some.min(axis=0), some.max(axis=0)])
    else:
        ends = np.zeros((2, bands.shape[2]))
    lowest, highest = ends
    full = 1.0 if not is_integer else 65535.0 if values.dtype == np.uint16 else 255.0
    return Samples(some, lowest, highest, is_integer, full)


def find_range(images: Sequence[Samples]) -> ValueRange:
    """Derive one value range for images; see the rule at the top of this file.

    Args:
        images (sequence[Samples]): One or more images, with any number of bands.
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
    single = [
        _range_of(
            [image.values[:, band] for image in images],
            min(image.lowest[band] for image in images),
            max(image.highest[band] for image in images),
            is_integer,
            images[0].full,
        )
        for band in range(3)
    ]
    widths = [min(high, together[1]) - max(low, together[0]) for low, high in single]
    if min(widths) < (together[1] - together[0]) / 8:
        return ValueRange(tuple(low for low, _ in single), tuple(high for _, high in single))
    return ValueRange((together[0],), (together[1],))


def is_usual(value_range: ValueRange) -> bool:
    """Whether a range is one that programs commonly write: that of a type, or 0 to 1."""
    low, high = value_range
    return len(low) == 1 and low[0] == 0 and high[0] in (1, 255, 65535)


def full_range(image: Samples) -> ValueRange:
    """Range of the type that a file stores, regardless of its values."""
    highest = float(image.highest.max(initial=0))
    return ValueRange((0.0,), (_top_of_one_value(highest, image.is_integer, image.full),))


def to_8_bits(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Scale values linearly, low to 0 and high to 255, with clipping; NaN becomes 0.

    Args:
        values (np.ndarray): Shape (H, W) or (H, W, 3).
        value_range (ValueRange): One pair for all bands, or one pair per band.

    Returns:
        np.ndarray: Shape (H, W, 3), uint8.
    """
    low, high = np.array(value_range.low), np.array(value_range.high)
    if values.ndim == 2 and len(low) == 3:  # a gray image in a data set with a range per band
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
    if width <= 0:  # a single value has no contrast
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
