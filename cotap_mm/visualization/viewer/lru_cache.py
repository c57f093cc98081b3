"""LRU cache that is bounded by memory.

``functools.lru_cache`` bounds the number of entries, not their size. ``cachetools.LRUCache`` could
bound the size, but would be one more dependency for these 40 lines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Callable

from torch import Tensor


class MemoryLRU:
    """Cache that drops the least recently used values.

    Args:
        most_bytes (int): Maximum size of all arrays and tensors together. The newest value is
            kept even if it is larger.

    Raises:
        ValueError: If ``most_bytes`` is not positive.
    """

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 1:
            raise ValueError(f'most_bytes must be positive, got {most_bytes}')
        self.most_bytes = most_bytes
        self.bytes = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: Hashable) -> Any:
        self._values.move_to_end(key)
        return self._values[key]

    def __setitem__(self, key: Hashable, value: Any) -> None:
        if key in self._values:
            self.bytes -= _bytes(self._values.pop(key))
        self._values[key] = value
        self.bytes += _bytes(value)
        while self.bytes > self.most_bytes and len(self._values) > 1:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= _bytes(oldest)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the value of a key; compute and store it if it is not cached."""
        if key in self._values:
            return self[key]
        value = compute()
        self[key] = value
        return value


def _bytes(value: Any) -> int:
    """Return the size of a tensor or array, or of a list of them."""
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return value.nbytes
