"""Every pre-training has its required hooks, whatever its config contains."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine import TeacherHook
from cotap_mm.engine.hooks.required import OURS, complete_hooks
from cotap_mm.registry import HOOKS


class MyTeacherHook(TeacherHook):
    """A hook of a user."""


@pytest.fixture
def messages(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.required.print_log', lambda text, **_: lines.append(text)
    )
    return lines


def complete(config, **options):
    config = load_config(config) if isinstance(config, str) else Config(config)
    config.merge_from_dict(options)
    complete_hooks(config)
    return config


def types(config):
    return [hook['type'].split('.')[-1] for hook in config.default_hooks.values()]


@pytest.mark.parametrize('name', ['vits_folder', 'demo', 'camvid_toy', 'raccoon_toy'])
def test_shipped_configs_are_complete(name, messages):
    assert set(OURS.values()) < set(types(complete(name))) and not messages


@pytest.mark.parametrize(
    'config',
    [
        dict(),
        dict(default_hooks=None, custom_hooks=None),
        dict(
            default_hooks=dict(logger=dict(type='LoggerHook')), custom_hooks=[dict(type='EMAHook')]
        ),
    ],
)
def test_missing_hooks_are_added(config, messages):
    found = complete(config)
    assert set(OURS.values()) <= set(types(found)) and len(messages) == len(OURS)
    assert [hook['type'] for hook in found.get('custom_hooks') or []] in ([], ['EMAHook'])
    assert all(HOOKS.build(dict(hook)) for hook in found.default_hooks.values())


def test_config_with_our_hooks_in_custom_hooks(messages):
    """As older configs had to: options of the user are kept, and so is the order of the hooks."""
    before = list(complete('vits_folder').default_hooks)
    found = complete(
        'vits_folder',
        custom_hooks=[
            dict(type='MonitorHook', interval=3),
            dict(type='cotap_mm.TeacherHook', start=0.5),
            dict(type='ScheduleLengthHook'),
            dict(type='EMAHook'),
        ],
    )
    assert list(found.default_hooks) == before
    assert found.default_hooks.teacher == dict(type='cotap_mm.TeacherHook', start=0.5)
    assert found.default_hooks.monitor.interval == 3
    assert [hook.type for hook in found.custom_hooks] == ['EMAHook']
    assert len(messages) == 3 and 'default_hooks = dict(teacher=dict(...))' in messages[1]


def test_derived_hook_replaces_ours(messages):
    HOOKS.register_module(module=MyTeacherHook, force=True)
    found = complete('vits_folder', custom_hooks=[dict(type='MyTeacherHook')])
    assert types(found).count('TeacherHook') == 0 and types(found).count('MyTeacherHook') == 1
    found = complete(dict(default_hooks=dict(mine=dict(type='MyTeacherHook'))))
    assert 'teacher' not in found.default_hooks


def test_checkpoint_hook_becomes_atomic(messages):
    found = complete(
        'vits_folder',
        **{'default_hooks.checkpoint': dict(_delete_=True, type='CheckpointHook', interval=7)},
    )
    assert (
        found.default_hooks.checkpoint == dict(type='cotap_mm.AtomicCheckpointHook', interval=7)
        and len(messages) == 1
    )
    assert issubclass(HOOKS.get('AtomicCheckpointHook'), CheckpointHook)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'default_hooks.teacher': None}, 'default_hooks.teacher must not be None'),
        ({'default_hooks.sampler_seed': None}, 'sampler_seed must not be None'),
        ({'default_hooks.techer.start': 0.9}, 'needs a type; did you mean default_hooks.teacher'),
        ({'custom_hooks': [dict(type='TeacherHook')] * 2}, 'contains TeacherHook twice'),
    ],
)
def test_disabled_required_hooks_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        complete('vits_folder', **options)
    complete('vits_folder', **{'default_hooks.monitor': None, 'default_hooks.timer': None})
