"""Select evenly spaced indices."""

from __future__ import annotations


def evenly_spaced(count: int, kept: int) -> list[int]:
    """Indices of ``kept`` items, evenly spread over ``count``.

    Args:
        count (int): Number of items.
        kept (int): Number of indices; all items are kept if there are fewer.

    Returns:
        list[int]: Ascending and distinct, the first is 0; length ``min(count, kept)``.
    """
    kept = min(count, kept)
    return [i * count // kept for i in range(kept)]
