"""Names of the previous release keep working, with one warning."""

from __future__ import annotations

import pytest
from tool_loading import load_tool

from cotap_mm.registry import HOOKS


def test_old_dry_run_option_of_train():
    parse = load_tool('train').parse_args
    with pytest.warns(DeprecationWarning, match='--check is deprecated, use --dry-run') as warned:
        assert parse(['c.py', '--check']).dry_run
    assert len(warned) == 1
    assert not parse(['c.py']).dry_run and parse(['c.py', '--dry-run']).dry_run


def test_old_name_of_the_checkpoint_hook():
    with pytest.warns(
        DeprecationWarning,
        match="'SafeCheckpointHook' is deprecated, use type='AtomicCheckpointHook'",
    ) as warned:
        hook = HOOKS.build(dict(type='SafeCheckpointHook', by_epoch=False, interval=7))
    assert len(warned) == 1 and hook.interval == 7
    assert isinstance(hook, HOOKS.get('AtomicCheckpointHook'))
