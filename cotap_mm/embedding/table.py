"""Content of a feature file, before it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from .parts import Parts


@dataclass(frozen=True)
class Table:
    """Features of images, read in parts while a file is written.

    Attributes:
        ids (list[str]): Name of each readable image, length N.
        shapes (dict): Feature -> shape per image, and type.
        skipped (dict[str, str]): Name of each unreadable image -> why.
        provenance (dict): Images, weights, settings and versions.
        parts (Parts): The features.
    """

    ids: list[str]
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]]
    skipped: dict[str, str]
    provenance: dict[str, Any]
    parts: Parts

    def about(self) -> str:
        """Everything but ids and features, as JSON."""
        shapes = {name: list(shape) for name, (shape, _) in self.shapes.items()}
        return json.dumps(
            dict(provenance=self.provenance, shapes=shapes, skipped=self.skipped), sort_keys=True
        )
