"""Choose a subset of indices."""

from __future__ import annotations


def evenly_spaced(count: int, kept: int) -> list[int]:
    """Return evenly spaced indices, starting with 0.

    Args:
        count (int): Number of items.
        kept (int): Number of indices to return; all of them if there are fewer items.

    Returns:
        list[int]: Increasing indices below ``count``.

    Raises:
        ValueError: If ``kept`` is not positive.
    """
    if kept < 1:
        raise ValueError(f'the number of items to keep must be positive, got {kept}')
    kept = min(kept, count)
    return [i * count // kept for i in range(kept)]
