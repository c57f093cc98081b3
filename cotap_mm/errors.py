"""Errors whose message is all a user needs: they end a tool in one line, without a traceback."""

from __future__ import annotations

from .error_text import of_worker


class UserError(RuntimeError):
    """A run stopped for a reason that its user can act on, whenever it happened.

    ValueError, FileNotFoundError and ImportError mean the same while a tool is being set up;
    later they may come from anywhere. Raise this one, or a subclass, where a training, a
    search or an evaluation has to stop: too many bad images, a full disk, a diverged loss, a
    rank that does not answer. The message states the rule, the value got, and the way out.
    """

    def __init__(self, *args: object) -> None:
        name = type(self).__name__
        super().__init__(*(of_worker(arg, name) if isinstance(arg, str) else arg for arg in args))
