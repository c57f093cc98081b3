"""Add the hooks that every training requires to its config."""

from __future__ import annotations

import difflib
import logging
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.registry import HOOKS

#: Key in ``default_hooks`` -> our hook, in the order for hooks with the same priority.
OURS = dict(
    runtime_info='DeferredInfoHook',
    non_finite='NonFiniteHook',
    teacher='TeacherHook',
    monitor='MonitorHook',
    schedule_length='ScheduleLengthHook',
    preemption='PreemptionHook',
    checkpoint='AtomicCheckpointHook',
    before_after='BeforeAfterHook',
)
#: Keys of MMEngine's hooks, which it adds unless a config sets them to None.
_THEIRS = ('timer', 'sampler_seed', 'logger', 'param_scheduler')
_OPTIONAL = ('monitor', 'before_after', 'timer', 'logger')  # they only report
# Hooks of MMEngine that ours replace.
_REPLACED = dict(checkpoint='CheckpointHook', runtime_info='RuntimeInfoHook')


def complete_hooks(config: Config) -> None:
    """Add the required hooks that a pre-training config lacks.

    Configs used to list our hooks in ``custom_hooks``. That still works: the hook replaces the
    default hook of the same type, and a warning shows what to write instead.

    Args:
        config (Config): A pre-training config; ``default_hooks`` and ``custom_hooks`` are
            changed in place.

    Raises:
        ValueError: If a required hook is disabled or duplicated, or a key of ``default_hooks``
            has no type.
    """
    if not config.get('default_hooks'):
        config.default_hooks = {}
    hooks = config.default_hooks
    _take_over_custom(config)
    for key, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            known = sorted({*OURS, *_THEIRS})
            near = difflib.get_close_matches(key, known, 1)
            raise ValueError(
                f'default_hooks.{key}: a hook needs a type'
                + (
                    f'; did you mean default_hooks.{near[0]}?'
                    if near and near[0] != key
                    else f', such as {OURS.get(key, "LoggerHook")!r}'
                )
            )
        if hook is None and key in (*OURS, *_THEIRS) and key not in _OPTIONAL:
            raise ValueError(
                f'default_hooks.{key} must not be None: training requires '
                f'{OURS.get(key, "this hook of MMEngine")}. Remove this setting'
            )
    for key, name in OURS.items():
        if key not in hooks and name not in map(_name, hooks.values()):
            hooks[key] = dict(type=f'cotap_mm.{name}')
            print_log(
                f'the config has no {name}; it is added with its defaults (default_hooks.{key})',
                logger='current',
            )
        elif _name(hooks.get(key)) == _REPLACED.get(key):
            hooks[key]['type'] = f'cotap_mm.{name}'
            print_log(
                f'default_hooks.{key}: {name} replaces {_REPLACED[key]}, with the same options',
                logger='current',
                level=logging.WARNING,
            )
    for key in [key for key in OURS if key in hooks and hooks[key] is None]:
        hooks.pop(key)  # MMEngine accepts None only for its own hooks


def complete_downstream_hooks(config: Config) -> None:
    """Add atomic checkpoints and handling of signals to a downstream config.

    Its CheckpointHook becomes an AtomicCheckpointHook with the same options, and a
    LoopPreemptionHook is added. Hooks that the config disables stay disabled.

    Args:
        config (Config): A downstream config; ``default_hooks`` is changed in place.
    """
    if not config.get('default_hooks'):
        config.default_hooks = {}
    hooks = config.default_hooks
    if 'checkpoint' not in hooks or _name(hooks.checkpoint) == 'CheckpointHook':
        hooks.checkpoint = dict(hooks.get('checkpoint') or {}, type='cotap_mm.AtomicCheckpointHook')
    others = [*hooks.values(), *(config.get('custom_hooks') or [])]
    if 'preemption' not in hooks and 'PreemptionHook' not in map(_name, others):
        hooks.preemption = dict(type='cotap_mm.LoopPreemptionHook')
    elif hooks.get('preemption', {}) is None:
        hooks.pop('preemption')  # MMEngine accepts None only for its own hooks


def _take_over_custom(config: Config) -> None:
    """Move our hooks from ``custom_hooks`` to ``default_hooks``."""
    keys = {name: key for key, name in OURS.items() if key != 'checkpoint'}
    others, seen = [], set()
    for hook in config.get('custom_hooks') or []:
        name = _name(hook)
        if name not in keys:
            others.append(hook)
            continue
        if name in seen:
            raise ValueError(f'custom_hooks contains {name} twice; remove one of them')
        seen.add(name)
        for key in [key for key, other in config.default_hooks.items() if _name(other) == name]:
            if key != keys[name]:  # a key that the user chose
                config.default_hooks.pop(key)
        config.default_hooks[keys[name]] = hook
        print_log(
            f'custom_hooks: {name} belongs in default_hooks; the next release will not accept it '
            f'in custom_hooks. Write default_hooks = dict({keys[name]}=dict(...)) with the '
            'options that differ',
            logger='current',
            level=logging.WARNING,
        )
    if seen:
        config.custom_hooks = others


def _name(hook: Any) -> str:
    """Name of our hook that a hook is or derives from, else of its class; '' for None."""
    if hook is None:
        return ''
    kind = hook.get('type', '') if isinstance(hook, dict) else type(hook)
    own = kind.split('.')[-1] if isinstance(kind, str) else kind.__name__
    cls = HOOKS.get(own) if isinstance(kind, str) else kind
    bases = [base.__name__ for base in getattr(cls, '__mro__', ())]
    return next((name for name in bases if name in OURS.values()), own)
