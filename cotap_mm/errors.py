"""Errors whose message is all a user needs: tools report them in one line, without a traceback."""

from __future__ import annotations

from .error_text import of_worker


class UserError(RuntimeError):
    """A run has to stop for a reason that the user can act on.

    ValueError, FileNotFoundError and ImportError have the same meaning while a tool is being set
    up; later they may come from anywhere. Raise this error, or a subclass, if a training, a
    search or an evaluation has to stop: too many bad images, a full disk, a diverged loss, a rank
    that does not answer. The message states the rule, the value, and the remedy.
    """

    def __init__(self, *args: object) -> None:
        name = type(self).__name__
        super().__init__(*(of_worker(arg, name) if isinstance(arg, str) else arg for arg in args))
