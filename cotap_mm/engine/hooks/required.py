"""The hooks that a training cannot do without, in every config."""

from __future__ import annotations

import difflib
import logging
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.registry import HOOKS

#: Key in ``default_hooks`` -> our hook. The order is that of hooks with the same priority.
OURS = dict(
    non_finite='NonFiniteHook',
    teacher='TeacherHook',
    monitor='MonitorHook',
    schedule_length='ScheduleLengthHook',
    preemption='PreemptionHook',
    checkpoint='AtomicCheckpointHook',
)
#: Those of MMEngine, which adds them unless a config says None.
_THEIRS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler')
_OPTIONAL = ('monitor', 'timer', 'logger')  # they only show something
_INSTEAD = dict(checkpoint='CheckpointHook')  # what ours takes the place of


def complete_hooks(config: Config) -> None:
    """Let a pre-training have all hooks that protect it, once each.

    Configs used to list our hooks in ``custom_hooks``. One that does so still works: its
    hook takes the place of the default of the same type, and a warning says what to write.

    Args:
        config (Config): Of a pre-training; ``default_hooks`` and ``custom_hooks`` are changed.

    Raises:
        ValueError: If a hook that the training needs is switched off or there are two of it, or
            a key of ``default_hooks`` has no type.
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
                f'default_hooks.{key} must not be None: a training needs '
                f'{OURS.get(key, "this hook of MMEngine")}. Remove that line'
            )
    for key, name in OURS.items():
        if key not in hooks and name not in map(_name, hooks.values()):
            hooks[key] = dict(type=f'cotap_mm.{name}')
            print_log(
                f'the config has no {name}; it is added with its defaults (default_hooks.{key})',
                logger='current',
            )
        elif _name(hooks.get(key)) == _INSTEAD.get(key):
            hooks[key]['type'] = f'cotap_mm.{name}'
            print_log(
                f'default_hooks.{key}: {name} takes the place of {_INSTEAD[key]}, with the '
                'same options',
                logger='current',
                level=logging.WARNING,
            )
    for key in [key for key in OURS if key in hooks and hooks[key] is None]:
        hooks.pop(key)  # MMEngine takes None for hooks of its own only


def complete_downstream_hooks(config: Config) -> None:
    """Let a downstream training save whole checkpoints and stop after a signal.

    Its CheckpointHook becomes a AtomicCheckpointHook with the same options, and it gets a
    LoopPreemptionHook. What the config switches off stays off.

    Args:
        config (Config): Of a downstream training; ``default_hooks`` is changed.
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
        hooks.pop('preemption')  # MMEngine takes None for hooks of its own only


def _take_over_custom(config: Config) -> None:
    """Move our hooks from ``custom_hooks`` to where the defaults are."""
    keys = {name: key for key, name in OURS.items() if key != 'checkpoint'}  # two may be wanted
    others, seen = [], set()
    for hook in config.get('custom_hooks') or []:
        name = _name(hook)
        if name not in keys:
            others.append(hook)
            continue
        if name in seen:
            raise ValueError(f'custom_hooks names {name} twice; remove one')
        seen.add(name)
        for key in [key for key, other in config.default_hooks.items() if _name(other) == name]:
            if key != keys[name]:  # under a name of the user's own
                config.default_hooks.pop(key)
        config.default_hooks[keys[name]] = hook
        print_log(
            f'custom_hooks: {name} belongs into default_hooks and will not be taken from '
            f'here after the next release; write default_hooks = dict({keys[name]}='
            'dict(...)) with the options that differ',
            logger='current',
            level=logging.WARNING,
        )
    if seen:
        config.custom_hooks = others


def _name(hook: Any) -> str:
    """Which of our hooks one is or derives from, else its class without scope; '' for None."""
    if hook is None:
        return ''
    kind = hook.get('type', '') if isinstance(hook, dict) else type(hook)
    own = kind.split('.')[-1] if isinstance(kind, str) else kind.__name__
    found = HOOKS.get(own) if isinstance(kind, str) else kind
    bases = [each.__name__ for each in getattr(found, '__mro__', ())]
    return next((name for name in bases if name in OURS.values()), own)
