"""Hand image sources on to the data set, which MMEngine's Runner builds from the same config.

Opening a source lists its images and may read the status of each, which takes long for many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cotap_mm.registry import DATASETS, build

from .sources.protocol import ImageSource

_opened: dict[str, list[ImageSource]] = {}


def hand_on(config: Mapping[str, Any], source: ImageSource) -> None:
    """Let an :func:`open_source` with an equal config return this source; the first one first.

    Args:
        config (Mapping): Config of the source.
        source (ImageSource): Built from it.
    """
    _opened.setdefault(_key(config), []).append(source)


def open_source(config: Mapping[str, Any]) -> ImageSource:
    """Return the source that was handed on for a config, once; otherwise build it."""
    sources = _opened.get(_key(config))
    return sources.pop(0) if sources else build(DATASETS, dict(config))


def forget_sources() -> None:
    """Forget the sources of a training that was not started, whose images may have changed."""
    _opened.clear()


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True, default=str)
