"""Hand opened images on to the part that MMEngine's Runner builds from the same config.

Opening images lists them and may read the status of each, which takes long for many. So what was
opened to check a config before a training is used again by the training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cotap_mm.registry import DATASETS, build

_opened: dict[tuple[str, str], list[Any]] = {}


def hand_on(config: Mapping[str, Any], source: Any, use: str = 'training') -> None:
    """Let an :func:`open_source` with an equal config and use return this source; first one first.

    Args:
        config (Mapping): Config of the source.
        source (ImageSource | data set): Built from it.
        use (str): What the images are used for. Defaults to 'training'.
    """
    _opened.setdefault((use, _key(config)), []).append(source)


def open_source(config: Mapping[str, Any], use: str = 'training') -> Any:
    """Return the source that was handed on for a config and use, once; otherwise build it."""
    sources = _opened.get((use, _key(config)))
    return sources.pop(0) if sources else build(DATASETS, dict(config))


def forget_sources() -> None:
    """Forget the sources of a training that was not started, whose images may have changed."""
    _opened.clear()


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True, default=str)
