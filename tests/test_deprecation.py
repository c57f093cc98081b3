"""What users typed in the release before keeps working, with one warning."""

from __future__ import annotations

import numpy as np
import pytest
from tool_loading import load_tool

from cotap_mm.registry import HOOKS
from cotap_mm.visualization import match_clusters


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


def test_old_argument_of_match_clusters():
    clusters = np.array([[[0, 1]]])
    with pytest.warns(DeprecationWarning, match='"found" is deprecated') as warned:
        matched = match_clusters(found=clusters, reference=1 - clusters)
    assert len(warned) == 1 and (matched == 1 - clusters).all()
