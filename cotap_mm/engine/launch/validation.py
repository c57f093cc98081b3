"""Mistakes in a config, found and named before anything is built."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Collection, Iterator
from typing import (
    Any,
    Optional,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from mmengine.config import Config
from mmengine.registry import LOG_PROCESSORS, VISBACKENDS, VISUALIZERS, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from cotap_mm import registry as ours
from cotap_mm.datasets import MultiCrop
from cotap_mm.models.modules import AssignmentQueue, PatchPairSampler, TemplateBank

#: Where the parts of a config are built from, by the first or last words of their place.
_REGISTRIES = (
    ('optim_wrapper.optimizer', ours.OPTIMIZERS),
    ('optim_wrapper', ours.OPTIM_WRAPPERS),
    ('train_dataloader.sampler', ours.DATA_SAMPLERS),
    ('train_dataloader.dataset', ours.DATASETS),
    ('default_hooks', ours.HOOKS),
    ('custom_hooks', ours.HOOKS),
    ('train_cfg', ours.LOOPS),
    ('param_scheduler', ours.PARAM_SCHEDULERS),
    ('data_preprocessor', ours.MODELS),
    ('visualizer.vis_backends', VISBACKENDS),
    ('visualizer', VISUALIZERS),
    ('log_processor', LOG_PROCESSORS),
    ('model', ours.MODELS),
)
#: Parts without a type of their own.
_OPTIONS = {
    'model.pairs': PatchPairSampler,
    'model.memory.patch_queue': AssignmentQueue,
    'model.memory.cls_queue': AssignmentQueue,
    'model.memory.template_bank': TemplateBank,
    'train_dataloader.dataset.crops': MultiCrop,
    'train_dataloader': DataLoader,
}
#: Keys that MMEngine takes out before it builds a part.
_TAKEN_OUT = {
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'train_dataloader': {'num_batch_per_epoch', 'disable_subprocess_warning'},
    'default_hooks': {'priority'},
    'custom_hooks': {'priority'},
    'train_cfg': {'by_epoch'},
    'param_scheduler': {'convert_to_iter_based'},
}

#: Smallest values of numbers; an int stands for whole numbers.
_SMALLEST: dict[str, dict[str, Union[int, float]]] = {
    'optim_wrapper.optimizer': dict(lr=0.0, weight_decay=0.0, eps=0.0),
    'train_cfg': dict(max_iters=1, max_epochs=1, val_interval=1),
    'train_dataloader': dict(num_workers=0, prefetch_factor=1),
    'train_dataloader.dataset.crops': dict(global_size=1, local_size=1),
    'model.backbone': dict(patch_size=1),
}


def check_config(config: Config) -> None:
    """Look for keys that nobody reads and values of a wrong type, in our classes.

    Args:
        config (Config): Of a pre-training.

    Raises:
        ValueError: With all that was found, each with its key.
    """
    found = []
    for place, options in _iter_dicts(config._cfg_dict.to_dict(), ''):
        kind = _class_of(place, options)
        if kind is not None:
            found += _errors(place, options, kind)
        found += _out_of_range(place, options)
    if found:
        raise ValueError('the config cannot be right:\n  ' + '\n  '.join(found))


def check_overrides(config: Config, options: dict[str, Any]) -> None:
    """Look for options of the command line that name no part of the config.

    Args:
        config (Config): As it is without them.
        options (dict): Dotted keys.

    Raises:
        ValueError: With the first one, and what may be meant.
    """
    known = set(config) | set(inspect.signature(Runner.__init__).parameters) - {'self'}
    for key, value in options.items():
        first = key.split('.')[0]
        if first not in known:
            raise ValueError(
                f'--cfg-options {key}: the config has no {first!r}{_suggestion(first, known)}'
            )
        index = key.split('.')[1:2]
        count = len(config.get('custom_hooks') or [])
        if first == 'custom_hooks' and index and not (index[0].isdigit() and int(index[0]) < count):
            raise ValueError(
                f'--cfg-options {key}: the config has {count} custom_hooks; the hooks '
                'of every run have names, e.g. default_hooks.teacher.start=0.99'
            )
        part: Any = config
        for word in key.split('.'):
            part = part.get(word) if isinstance(part, (dict, Config)) else None
        if isinstance(part, dict) and value is not None and not isinstance(value, dict):
            raise ValueError(
                f'--cfg-options {key}: this is a part with keys of its own, e.g. '
                f'{key}.{next(iter(part), "type")}, got {value!r}'
            )


def _out_of_range(place: str, options: dict) -> list[str]:
    """Numbers that nothing can be trained with."""
    found = []
    for key, low in _SMALLEST.get(place, {}).items():
        value = options.get(key)
        if value is None or isinstance(value, dict):
            continue
        whole = isinstance(low, int)
        wanted = 'a whole number' if whole else 'a number'
        if not _fits(value, int if whole else float):
            found.append(f'{place}.{key}: expected {wanted}, got {value!r}')
        elif not low <= value < math.inf:
            found.append(f'{place}.{key}: expected {wanted} >= {low:g}, got {value!r}')
    return found


def _iter_dicts(part: Any, place: str) -> Iterator[tuple[str, dict]]:
    """All dicts of a config and their dotted places, outer ones first."""
    if isinstance(part, dict):
        yield place, part
        for key, value in part.items():
            yield from _iter_dicts(value, f'{place}.{key}'.lstrip('.'))
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _iter_dicts(value, f'{place}.{index}')


def _class_of(place: str, options: dict) -> Optional[type]:
    """The class that is built from a dict, if that is known."""
    if place in _OPTIONS:
        return _OPTIONS[place]
    registry = _registry(place)
    if registry is None or not isinstance(options.get('type'), str):
        return None
    name = options['type'].split('.')
    if len(name) > 1 and name[0] != 'cotap_mm':
        return None
    found = registry.get(name[-1])  # or MMEngine's
    if found is None:
        raise ValueError(
            f'{place}.type: there is no {options["type"]!r}'
            f'{_suggestion(name[-1], _names(registry))}'
        )
    # Of OpenMMLab's and PyTorch's classes only the names of options are known.
    return found if inspect.isclass(found) else None


def _names(registry: Registry) -> set[str]:
    """What a registry and those above it hold."""
    found = set(registry.module_dict)
    return found | _names(registry.parent) if registry.parent is not None else found


def _registry(place: str) -> Optional[Registry]:
    words = place.split('.')
    if words[-1] == 'init_cfg':
        return ours.WEIGHT_INITIALIZERS
    if words[0] in ('default_hooks', 'custom_hooks') and len(words) > 2:
        return None  # what a hook builds is its own affair
    return next(
        (
            registry
            for start, registry in _REGISTRIES
            if place == start or place.startswith(f'{start}.')
        ),
        None,
    )


def _errors(place: str, options: dict, kind: type) -> list[str]:
    known, hints, is_open = _arguments(kind)
    known |= {'type', '_scope_'} | next(
        (keys for start, keys in _TAKEN_OUT.items() if place.split('.')[0] == start), set()
    )
    found = []
    for key, value in options.items():
        if key not in known and not is_open:
            found.append(
                f'{place}.{key}: {kind.__name__} has no such option{_suggestion(key, known)}'
            )
        elif key in hints and not isinstance(value, dict) and not _fits(value, hints[key]):
            found.append(f'{place}.{key}: expected {_name(hints[key])}, got {value!r}')
    return found


def _arguments(kind: type) -> tuple[set[str], dict[str, Any], bool]:
    """Names of a class's arguments, their types, and whether there may be others."""
    known: set[str] = set()
    hints: dict[str, Any] = {}
    for each in kind.__mro__:
        if '__init__' not in vars(each):
            continue
        parameters = inspect.signature(each.__init__).parameters.values()
        known |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if each.__module__.startswith('cotap_mm'):
            hints = {**get_type_hints(each.__init__), **hints}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return known - {'self'}, hints, False
    return known - {'self'}, hints, True


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value of a config is of a type; types that no config holds are not looked at."""
    if get_origin(wanted) is Union:
        return any(_fits(value, each) for each in get_args(wanted))
    origin = get_origin(wanted) or wanted
    if origin in (int, float):
        return not isinstance(value, bool) and isinstance(
            value, (int, float) if origin is float else int
        )
    if origin in (bool, str, type(None)):
        return isinstance(value, origin)
    if inspect.isclass(origin) and issubclass(origin, dict):
        return isinstance(value, dict)
    if origin in (list, tuple) or inspect.isclass(origin) and origin.__name__ == 'Sequence':
        items = [each for each in get_args(wanted) if each is not Ellipsis]
        return isinstance(value, (list, tuple)) and (
            len(items) != 1 or all(_fits(each, items[0]) for each in value)
        )
    return True


def _name(wanted: Any) -> str:
    if get_origin(wanted) is Union:
        return ' or '.join(map(_name, get_args(wanted)))
    return 'None' if wanted is type(None) else getattr(wanted, '__name__', str(wanted))


def _suggestion(key: str, known: Collection[str]) -> str:
    lower = {each.lower(): each for each in sorted(known)}
    near = difflib.get_close_matches(key.lower(), lower, 1)
    return (
        f'; did you mean {lower[near[0]]!r}?' if near else f'; there are {", ".join(sorted(known))}'
    )
