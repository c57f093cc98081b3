"""What users typed in the release before keeps working, with one warning."""

from __future__ import annotations

import pytest
import torch
from tool_loading import load_tool

from cotap_mm.registry import HOOKS, OPTIM_WRAPPERS


def test_old_option_of_train():
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


def test_old_name_of_a_skipped_step():
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='MixedPrecisionOptimWrapper',
            dtype='float32',
            optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
        )
    )
    with pytest.warns(DeprecationWarning, match='left_out is deprecated, use step_skipped'):
        assert wrapper.left_out is wrapper.step_skipped is False
