"""Errors whose message is all a user needs: they end a tool in one line, without a traceback."""
from __future__ import annotations

import re


class UserError(RuntimeError):
    """A run stopped for a reason that its user can act on, whenever it happened.

    ValueError, FileNotFoundError and ImportError mean the same while a tool is being set up;
    later they may come from anywhere. Raise this one, or a subclass, where a training, a
    search or an evaluation has to stop: too many bad images, a full disk, a diverged loss, a
    rank that does not answer. The message states the rule, the value got, and the way out.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(sentence_of(arg) if isinstance(arg, str) else arg for arg in args))


def sentence_of(text: str) -> str:
    """The message of an error, also of one that PyTorch has raised again for a loader's process.

    Args:
        text (str): Message; from a loader's process it holds a traceback, whose last
            line that names an error has the message.
    """
    if not (text.startswith('Caught ') and 'Traceback (most recent call last)' in text):
        return text
    name = text.split()[1]
    places = list(re.finditer(rf'^(?:\w+\.)*{re.escape(name)}: ', text, re.MULTILINE))
    return text[places[-1].end():].strip() if places else text
