"""Limit the history of logged values that MMEngine keeps."""

from __future__ import annotations

from typing import Any

#: Values that are kept of each logged scalar, unless the log processor needs longer windows.
KEPT = 1000


def bound_history(runner: Any, kept: int = KEPT) -> None:
    """Limit the number of logged values that MMEngine keeps.

    Its message hub keeps a million values of each scalar, copies all of them for every new
    value, and saves them in each checkpoint: 4 MB per scalar after 240,000 iterations, for a
    dozen scalars. The log only needs means over the last 50.

    Args:
        runner (Runner): Its message hub is changed.
        kept (int): Number of values to keep, at least the longest window of the log processor.
            If the log processor averages over a whole epoch or run, all values are kept.
    """
    windows = log_windows(runner.log_processor)
    if any(isinstance(window, str) for window in windows):
        return
    length = max([kept, *windows])
    for values in runner.message_hub.log_scalars.values():
        values.max_length = length  # shortened when the next value is added


def log_windows(log_processor: Any) -> list[Any]:
    """Window sizes of a log processor: numbers of values, 'epoch' or 'global'."""
    own = [item['window_size'] for item in log_processor.custom_cfg if 'window_size' in item]
    return [log_processor.window_size, *own]
