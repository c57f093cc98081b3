"""Build the parts of a training on trial, so that bad options are refused before a long search.

A Runner builds most parts only when it starts, which with ``neighbors='auto'`` is after the
neighbors have been computed. Here the same code builds them from the same config, and they are
dropped: data set, sampler and loader without neighbors, the model without memory, and its
optimizer, schedules and hooks. Only the labeled images that a hook has listed are kept for the run.
"""

from __future__ import annotations

import copy
import gc
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from cotap_mm.datasets import NeighborPairs
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.engine.optim.schedules import with_ends
from cotap_mm.random_state import preserve_random_state
from cotap_mm.registry import DATASETS, HOOKS, option_of

_KEYS = dict(patch='neighbors', cls='cls_neighbors')
_NOT_BUILT = 'not built yet'  # instead of a neighbor file


def build_on_trial(config: Config, sources: Mapping[str, ImageSource]) -> None:
    """Raise the errors of options that the Runner would raise after a search for neighbors.

    Nothing is done unless the config has ``neighbors='auto'``. No image and no name of the sources
    is read, and no worker is started. Hooks of users, and data sets other than
    :class:`.NeighborPairs` and its subclasses, are left to the run. Every rank may call this; none
    waits for another one. Random states are preserved.

    Args:
        config (Config): A complete pre-training config; not changed.
        sources (Mapping[str, ImageSource]): Opened images of the branches ``'patch'`` and
            ``'cls'``.

    Raises:
        Exception: Whatever the constructor of a part raises.
    """
    dataset = config.train_dataloader.dataset
    is_searched = any(dataset.get(_KEYS[branch]) == 'auto' for branch in sources)
    if not is_searched or config.get('runner_type'):  # a runner of another library
        return
    scope = DefaultScope.overwrite_default_scope(config.get('default_scope', 'cotap_mm'))
    with preserve_random_state(), scope, warnings.catch_warnings(), _no_garbage_collection():
        warnings.simplefilter('ignore')  # the run itself will warn
        parts = _Parts(_build_loader(config, sources))
        parts.build_log_processor(copy.deepcopy(config.get('log_processor') or {}))
        default, custom = config.get('default_hooks') or {}, config.get('custom_hooks') or []
        parts.register_hooks(
            {key: copy.deepcopy(hook) for key, hook in default.items() if _is_known(hook)},
            [copy.deepcopy(hook) for hook in custom if _is_known(hook)],
        )
        parts.model = _build_model(parts, config)
        with suppress(RuntimeError):  # fused kernels, for instance, need the device of the run
            parts.build_schedules(config)
        for hook in parts.hooks:
            if hasattr(hook, 'hand_on_data'):  # the Runner builds it again
                hook.hand_on_data()


class _Parts(Runner):
    """The methods of a Runner that build its parts, without the rest of it.

    Args:
        loader (DataLoader, optional): Of the training.
    """

    model: Optional[nn.Module] = None

    def __init__(self, loader: Optional[DataLoader]) -> None:
        self._loader = loader
        self._train_loop = None
        self._hooks = []

    @property
    def train_dataloader(self) -> Any:
        """The loader, whose length schedules in epochs need."""
        return range(1) if self._loader is None else self._loader

    def build_schedules(self, config: Config) -> None:
        """Build the optimizer and the schedules, and compute the values of the second step."""
        self.optim_wrapper = self.build_optim_wrapper(copy.deepcopy(config.optim_wrapper))
        schedules = self.build_param_scheduler(with_ends(config))
        groups = schedules.values() if isinstance(schedules, dict) else [schedules]
        for schedule in (schedule for group in groups for schedule in group):
            schedule.step()


def _build_loader(config: Config, sources: Mapping[str, ImageSource]) -> Optional[DataLoader]:
    """Build the loader of a training; None if its data set is not a :class:`NeighborPairs`."""
    options = config.train_dataloader.dataset
    kind = options.get('type')
    kind = kind if inspect.isclass(kind) else DATASETS.get(str(kind))
    if kind is None or not issubclass(kind, NeighborPairs):
        return None
    count = option_of(DATASETS, options, 'num_neighbors')
    dataset = dict(options, **{_KEYS[branch]: _NOT_BUILT for branch in sources})
    dataset.update((branch, _Unsearched(source, count)) for branch, source in sources.items())
    return Runner.build_dataloader(dict(config.train_dataloader, dataset=dataset), seed=0)


class _Unsearched:
    """An opened image source whose neighbors are not built yet.

    Args:
        source (ImageSource): The images.
        num_neighbors (int): Number of neighbors that are used.
    """

    found_range = None  # it reads images

    def __init__(self, source: ImageSource, num_neighbors: int) -> None:
        self._source = source
        self.loaded_neighbors = [_NOT_BUILT, num_neighbors, None]

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __deepcopy__(self, memo: dict) -> _Unsearched:
        return self  # MMEngine copies configs, and a source has a name for each image


def _build_model(parts: Runner, config: Config) -> nn.Module:
    """Build the model without memory for its weights, or with it if the model needs values."""

    def build() -> nn.Module:
        options = copy.deepcopy(config.model)
        if config.get('data_preprocessor'):
            options.setdefault('data_preprocessor', copy.deepcopy(config.data_preprocessor))
        return parts.build_model(options)

    # Errors of the user occur again below.
    with suppress(Exception), torch.device('meta'):
        return build()
    return build()


def _is_known(hook: Any) -> bool:
    """Whether a hook is ours or MMEngine's, so that building it twice has no effects."""
    kind = hook.get('type') if isinstance(hook, dict) else None
    kind = HOOKS.get(kind) if isinstance(kind, str) else kind
    return getattr(kind, '__module__', '').split('.')[0] in ('cotap_mm', 'mmengine')


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Context without garbage collection, which would take three times as long as the rest.

    After the imports each collection visits some hundred thousand objects.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
