"""How much of each logged value is remembered."""

from __future__ import annotations

from typing import Any

#: Values of each kind that a training remembers, unless its log asks for longer windows.
KEPT = 1000


def bound_history(runner: Any, kept: int = KEPT) -> None:
    """Let MMEngine forget old values of what is logged.

    Its message hub remembers a million values of each kind, copies all of them when one
    more comes, and all are in each checkpoint: after 240,000 iterations that would be
    4 MB for each of a dozen kinds. What is logged are means over the last 50.

    Args:
        runner (Runner): Its message hub is changed.
        kept (int): Values to remember. Longer windows of the log processor count as well;
            where it averages over a whole epoch or run, nothing is forgotten.
    """
    windows = log_windows(runner.log_processor)
    if any(isinstance(window, str) for window in windows):
        return
    length = max([kept, *windows])
    for values in runner.message_hub.log_scalars.values():
        values.max_length = length  # shortened when the next value comes


def log_windows(log_processor: Any) -> list[Any]:
    """Over how many values a log processor takes its statistics; also 'epoch', 'global'."""
    own = [item['window_size'] for item in log_processor.custom_cfg if 'window_size' in item]
    return [log_processor.window_size, *own]
