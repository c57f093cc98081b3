"""Hand image sources on to the data set, which MMEngine's Runner builds from the same config.

Opening a source lists its images and may read the status of each, which takes long for many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cotap_mm.registry import DATASETS, build

from .sources.protocol import ImageSource

_opened: dict[str, ImageSource] = {}


def hand_on(config: Mapping[str, Any], source: ImageSource) -> None:
    """Let the next :func:`open_source` with an equal config return this source.

    Args:
        config (Mapping): Config of the source.
        source (ImageSource): Built from it.
    """
    _opened[_key(config)] = source


def open_source(config: Mapping[str, Any]) -> ImageSource:
    """Return the source that was handed on for a config, once; otherwise build it."""
    source = _opened.pop(_key(config), None)
    return build(DATASETS, dict(config)) if source is None else source


def forget_sources() -> None:
    """Forget the sources of a training that was not started, whose images may have changed."""
    _opened.clear()


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True, default=str)
