"""Find unknown keys, unknown classes and wrong types in a config before anything is built."""

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
from torch.utils.data import DataLoader

from cotap_mm import registry as ours
from cotap_mm.datasets import MultiCrop, SearchOptions
from cotap_mm.models.modules import (
    AssignmentQueue,
    ClsAttention,
    PatchPairSampler,
    TemplateBank,
)
from cotap_mm.rules import Rule, rules_of

#: Start of a dotted key -> registry that builds the parts below it.
_REGISTRIES = (
    ('optim_wrapper.optimizer', ours.OPTIMIZERS),
    ('optim_wrapper', ours.OPTIM_WRAPPERS),
    ('train_dataloader.sampler', ours.DATA_SAMPLERS),
    ('train_dataloader.collate_fn', ours.FUNCTIONS),
    ('train_dataloader.worker_init_fn', ours.FUNCTIONS),
    ('train_dataloader.dataset.crops', ours.TRANSFORMS),
    ('train_dataloader.dataset', ours.DATASETS),
    ('default_hooks', ours.HOOKS),
    ('custom_hooks', ours.HOOKS),
    ('train_cfg', ours.LOOPS),
    ('param_scheduler', ours.PARAM_SCHEDULERS),
    ('data_preprocessor', ours.MODELS),
    ('visualizer.vis_backends', VISBACKENDS),
    ('visualizer', VISUALIZERS),
    ('log_processor', LOG_PROCESSORS),
    ('strategy', ours.STRATEGIES),
    ('model', ours.MODELS),
)
#: Parts without a type: dotted key -> class that takes the options.
_OPTIONS = {
    'model.pairs': PatchPairSampler,
    'model.foreground': ClsAttention,
    'model.memory.patch_queue': AssignmentQueue,
    'model.memory.cls_queue': AssignmentQueue,
    'model.memory.template_bank': TemplateBank,
    'train_dataloader.dataset.crops': MultiCrop,
    'neighbor_search': SearchOptions,
    'train_dataloader': DataLoader,
}
#: Keys that MMEngine removes before it builds a part.
_TAKEN_OUT = {
    'optim_wrapper': {'constructor', 'paramwise_cfg'},
    'train_dataloader': {'num_batch_per_epoch', 'disable_subprocess_warning'},
    'default_hooks': {'priority'},
    'custom_hooks': {'priority'},
    'train_cfg': {'by_epoch'},
    'param_scheduler': {'convert_to_iter_based'},
}
#: Kind of part that builds its own parts -> number of words of its key.
_OWN_PARTS = {'default_hooks': 2, 'custom_hooks': 2, 'strategy': 1}
#: Smallest values of numbers; an int here means that the value must be an integer.
_SMALLEST: dict[str, dict[str, Union[int, float]]] = {
    'optim_wrapper.optimizer': dict(lr=0.0, weight_decay=0.0, eps=0.0),
    'train_cfg': dict(max_iters=1, max_epochs=1, val_begin=0, val_interval=1),
    'train_dataloader': dict(num_workers=0, prefetch_factor=1),
}


def check_config(config: Config) -> None:
    """Check a config for keys that no class accepts and, in our classes, for wrong values.

    Args:
        config (Config): A pre-training config.

    Raises:
        ValueError: Lists all errors with their keys.
    """
    errors = []
    for key, options in _iter_dicts(config._cfg_dict.to_dict(), ''):
        kind = _class_of(key, options)
        if kind is not None:
            errors += _errors(key, options, kind)
        errors += _out_of_range(key, options)
    errors += _preprocessor_errors(config)
    if errors:
        raise ValueError('invalid config:\n  ' + '\n  '.join(errors))


def _preprocessor_errors(config: Config) -> list[str]:
    """Error if options are set where they would replace the preprocessor of the config."""
    model = config.get('model')
    own = model.get('data_preprocessor') if isinstance(model, dict) else None
    if not isinstance(own, dict) or 'type' in own:
        return []
    return [
        f'model.data_preprocessor: expected a dict with a type, got {dict(own)!r}; options of the '
        "config's own preprocessor are data_preprocessor.color and others, without model"
    ]


def _out_of_range(part: str, options: dict) -> list[str]:
    """Errors of numbers below their smallest value."""
    errors = []
    for key, low in _SMALLEST.get(part, {}).items():
        value = options.get(key)
        if value is None or isinstance(value, dict):
            continue
        whole = isinstance(low, int)
        wanted = 'an integer' if whole else 'a number'
        if not _fits(value, int if whole else float):
            errors.append(f'{part}.{key}: expected {wanted}, got {value!r}')
        elif not low <= value < math.inf:
            errors.append(f'{part}.{key}: expected {wanted} >= {low:g}, got {value!r}')
    return errors


def _iter_dicts(part: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Yield all dicts of a config with their dotted keys, outer ones first."""
    if isinstance(part, dict):
        yield key, part
        for name, value in part.items():
            yield from _iter_dicts(value, f'{key}.{name}'.lstrip('.'))
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _iter_dicts(value, f'{key}.{index}')


def _class_of(key: str, options: dict) -> Optional[type]:
    """Class that is built from a dict of the config; None if it is unknown."""
    if key in _OPTIONS and 'type' not in options:
        return _OPTIONS[key]
    registry = _registry(key)
    if registry is None or not isinstance(options.get('type'), str):
        return None
    name = options['type'].split('.')
    if len(name) > 1 and name[0] != 'cotap_mm':
        return None
    cls = registry.get(name[-1])  # or MMEngine's
    if cls is None:
        what = 'function' if registry is ours.FUNCTIONS else 'class'
        raise ValueError(
            f'{key}.type: unknown {what} {options["type"]!r}'
            f'{suggestion(name[-1], _names(registry))}'
        )
    # For classes of OpenMMLab and PyTorch only the names of their options are checked.
    return cls if inspect.isclass(cls) else None


def _names(registry: Registry) -> set[str]:
    """Names in a registry and its parents."""
    names = set(registry.module_dict)
    return names | _names(registry.parent) if registry.parent is not None else names


def _registry(key: str) -> Optional[Registry]:
    """Registry that builds the part at a dotted key."""
    words = key.split('.')
    if words[-1] == 'init_cfg':
        return ours.WEIGHT_INITIALIZERS
    if len(words) > _OWN_PARTS.get(words[0], len(words)):
        return None
    return next(
        (
            registry
            for start, registry in _REGISTRIES
            if key == start or key.startswith(f'{start}.')
        ),
        None,
    )


def _errors(part: str, options: dict, kind: type) -> list[str]:
    """Errors of options that a class does not accept, or of a wrong type or value."""
    known, hints, is_open = _arguments(kind)
    rules = argument_rules(kind)
    known |= {'type', '_scope_'} | next(
        (keys for start, keys in _TAKEN_OUT.items() if part.split('.')[0] == start), set()
    )
    refused = kind.refused_options(options) if hasattr(kind, 'refused_options') else {}
    errors = list(refused.values())
    for key, value in options.items():
        if key in refused:
            continue
        if key not in known and not is_open:
            errors.append(
                f'{part}.{key}: {kind.__name__} has no such option{suggestion(key, known)}'
            )
        elif key in rules:
            if not rules[key].holds(value):
                errors.append(f'{part}.{key}: expected {rules[key].wanted}, got {value!r}')
        elif key in hints and not isinstance(value, dict) and not _fits(value, hints[key]):
            errors.append(f'{part}.{key}: expected {_name(hints[key])}, got {value!r}')
    return errors


def _arguments(kind: type) -> tuple[set[str], dict[str, Any], bool]:
    """Names of a class's arguments, their types, and whether it accepts any other name."""
    known: set[str] = set()
    hints: dict[str, Any] = {}
    is_open = False
    for base in kind.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        known |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if base.__module__.startswith('cotap_mm'):
            hints = {**get_type_hints(base.__init__), **hints}
        is_open = any(p.kind == p.VAR_KEYWORD for p in parameters)
        if not is_open:
            break
    return known - {'self'}, hints, is_open


def argument_rules(kind: type) -> dict[str, Rule]:
    """Rules of a class's arguments, also of those that it passes on to its parents."""
    rules: dict[str, Rule] = {}
    for base in reversed(kind.__mro__):
        rules.update(rules_of(vars(base).get('__init__', None)))
    return rules


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a config value has a type; types that configs cannot hold are not checked."""
    if get_origin(wanted) is Union:
        return any(_fits(value, option) for option in get_args(wanted))
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
        items = [option for option in get_args(wanted) if option is not Ellipsis]
        return isinstance(value, (list, tuple)) and (
            len(items) != 1 or all(_fits(item, items[0]) for item in value)
        )
    return True


def _name(wanted: Any) -> str:
    if get_origin(wanted) is Union:
        return ' or '.join(map(_name, get_args(wanted)))
    return 'None' if wanted is type(None) else getattr(wanted, '__name__', str(wanted))


def suggestion(key: str, known: Collection[str]) -> str:
    """The most similar known key, or all of them, as the end of a message."""
    lower = {name.lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(key.lower(), lower, 1)
    return (
        f'; did you mean {lower[near[0]]!r}?'
        if near
        else f'; choose from {", ".join(sorted(name for name in known if name[0] != "_"))}'
    )
