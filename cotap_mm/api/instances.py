"""Keep MMEngine's global objects of one run apart from those of other runs in the process."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.utils import ManagerMixin


@contextmanager
def own_instances() -> Iterator[None]:
    """Give a run its own global loggers, visualizers, message hubs and scopes.

    MMEngine finds these by names that contain the time in seconds, so that two runs of the same
    second would share them, and the newest one is used by everything that logs. After this
    context the former ones are current again, the log files of the run are closed, and its
    memory is freed.
    """
    before = {kind: kind._instance_dict.copy() for kind in _kinds()}
    rank = os.environ.get('LOCAL_RANK')
    for kind in before:
        kind._instance_dict.clear()
    try:
        yield
    finally:
        for kind in _kinds():
            for instance in kind._instance_dict.values():
                if isinstance(instance, logging.Logger):
                    _close(instance)
            kind._instance_dict.clear()
            kind._instance_dict.update(before.get(kind, {}))
        if rank is None:
            os.environ.pop('LOCAL_RANK', None)  # launching a run sets it
        gc.collect()  # a Runner and its hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _kinds() -> list[Any]:
    """Classes whose instances MMEngine keeps globally."""
    kinds, found = [ManagerMixin], []
    while kinds:
        kind = kinds.pop()
        found.append(kind)
        kinds += kind.__subclasses__()
    return found


def _close(logger: logging.Logger) -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
