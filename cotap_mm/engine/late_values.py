"""Values that a training step computes on the device and that the host reads later.

Reading a value makes the host wait until the device has finished all work before it, and then the
device waits for the host. So a step only enqueues copies, or keeps the values on the device.
"""

from __future__ import annotations

import copy
from typing import Any, Optional, Union
from weakref import WeakKeyDictionary

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

#: Values that are kept on the device at most, if nothing reads them.
_MOST = 4096


class LateFlag:
    """A boolean on the device, and its copy on the host, which is enqueued at once.

    Args:
        flag (Tensor): Bool scalar.
    """

    def __init__(self, flag: Tensor) -> None:
        self.on_device = flag
        self._host = flag
        self._event: Optional[torch.cuda.Event] = None
        if flag.device.type == 'cuda':
            self._host = torch.empty((), dtype=flag.dtype, pin_memory=True)
            self._host.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def is_here(self) -> bool:
        """Whether :meth:`read` would not wait, as far as is known; asking does not wait either."""
        return self._host.device.type == 'cpu' and (self._event is None or self._event.query())

    def read(self) -> bool:
        """Wait until the device has computed the flag, not for later work; return it."""
        if self._event is not None:
            if not self._event.query():
                self._event.synchronize()
        elif self._host.device.type != 'cpu':
            self._host = self._host.cpu()
        return bool(self._host.numpy())


class _Pending:
    """Logged values of one message hub that are still on the device, in the order of logging."""

    def __init__(self) -> None:
        self._values: list[tuple[DeferredHistory, Tensor]] = []

    def add(self, history: DeferredHistory, value: Tensor) -> None:
        self._values.append((history, value.detach().reshape(())))
        if len(self._values) >= _MOST:
            self.read()

    def read(self) -> None:
        """Add the values to their histories, with one copy for each device and data type."""
        if not self._values:
            return
        values, self._values = self._values, []
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for index, (_, value) in enumerate(values):
            kinds.setdefault((value.device, value.dtype), []).append(index)
        numbers: dict[int, Union[int, float]] = {}
        for indices in kinds.values():
            copied = torch.stack([values[index][1] for index in indices]).tolist()
            numbers.update(zip(indices, copied))
        added: dict[DeferredHistory, list[Union[int, float]]] = {}
        for index, (history, _) in enumerate(values):
            added.setdefault(history, []).append(numbers[index])
        for history, new in added.items():
            history.extend(new)


_pending: WeakKeyDictionary[MessageHub, _Pending] = WeakKeyDictionary()


class DeferredHistory(HistoryBuffer):
    """MMEngine's HistoryBuffer, whose newest values may still be on the device.

    Whoever reads any history of a message hub copies the missing values of all of them at once, so
    readers see the same numbers as without deferral. Copies and pickles are plain HistoryBuffers.

    Args:
        pending (_Pending): Values on the device, shared by all histories of a message hub.
        history (HistoryBuffer, optional): Values to start with, such as those of a checkpoint.
    """

    def __init__(self, pending: _Pending, history: Optional[HistoryBuffer] = None) -> None:
        self._pending = pending
        super().__init__()
        if history is not None:
            self.max_length = history.max_length
            self._log_history, self._count_history = history.data

    @property
    def _log_history(self) -> np.ndarray:  # type: ignore[override]
        self._pending.read()
        return self._values

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def _count_history(self) -> np.ndarray:  # type: ignore[override]
        self._pending.read()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    def extend(self, numbers: list[Union[int, float]]) -> None:
        """Add values, each with a count of 1; what exceeds ``max_length`` is dropped."""
        values, counts = np.array(numbers), np.ones(len(numbers), dtype=np.int64)
        if len(self._values):  # an empty array would make integers floats
            values = np.append(self._values, values)
            counts = np.append(self._counts, counts)
        self._values, self._counts = values[-self.max_length :], counts[-self.max_length :]

    def plain(self) -> HistoryBuffer:
        """Copy the values to MMEngine's class."""
        values, counts = self.data
        history = HistoryBuffer(max_length=self.max_length)
        history._log_history, history._count_history = values.copy(), counts.copy()
        return history

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copy.copy, (self.plain(),)


def log_later(hub: MessageHub, name: str, value: Any) -> None:
    """Log a scalar like ``hub.update_scalar``, but without reading it from the device now.

    Args:
        hub (MessageHub): MMEngine's message hub.
        name (str): Key, such as ``'train/loss'``.
        value (Tensor | float): Tensor with one element, or a number.
    """
    if not isinstance(value, Tensor):
        hub.update_scalar(name, value)
        return
    history = hub.log_scalars.get(name)
    if not isinstance(history, DeferredHistory):
        pending = _pending.setdefault(hub, _Pending())
        history = hub.log_scalars[name] = DeferredHistory(pending, history)
        hub._set_resumed_keys(name, True)
    history._pending.add(history, value)
