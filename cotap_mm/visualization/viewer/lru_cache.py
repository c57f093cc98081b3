"""What was computed lately, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Callable

from torch import Tensor


class MemoryLRU:
    """Values by key; what has not been asked for longest goes first.

    Args:
        most_bytes (int): Of all arrays and tensors together; the newest value stays, however
            large.

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
        """The value of a key, computed if it is not here."""
        if key in self._values:
            return self[key]
        value = compute()
        self[key] = value
        return value


def _bytes(value: Any) -> int:
    """Of tensors and arrays; of lists of them."""
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return value.nbytes
