"""The train and validation data of an evaluation, with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class EvaluationData(NamedTuple):
    """Data that a protocol is evaluated on.

    Attributes:
        name (str): Name for tables.
        kind (str): ``'segmentation'``, ``'classification'`` or ``'video'``.
        classes (tuple): Names of the classes; empty for videos of objects.
        val: Data set that is scored.
        train: Data set to learn from, if any.
        foreground (tuple): Indices of the classes that are objects, for the foreground protocol.
    """

    name: str
    kind: str
    classes: Sequence[str]
    val: Any
    train: Any = None
    foreground: Sequence[int] = ()
