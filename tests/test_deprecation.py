"""What users typed in the release before keeps working, with one warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from tool_loading import load_tool

from cotap_mm.command_line.config_file import load_config
from cotap_mm.registry import HOOKS


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


@pytest.mark.parametrize(
    'old, new',
    [
        ('configs/cotap/camvid_small.py', 'configs/cotap/camvid_toy.py'),
        ('configs/cotap/raccoon_small.py', 'configs/cotap/raccoon_toy.py'),
        ('configs/toy_vit/clusters.py', 'configs/cotap/toy_init.py'),
    ],
)
def test_old_config_paths(old, new):
    with pytest.warns(DeprecationWarning, match=f'{old} is deprecated, use {new}') as warned:
        config = load_config(old)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert config.to_dict() == load_config(new).to_dict()


def test_old_config_as_a_base(tmp_path):
    old = Path(__file__).resolve().parent.parent / 'configs/cotap/camvid_small.py'
    (tmp_path / 'mine.py').write_text(f"_base_ = '{old}'\n")
    with pytest.warns(DeprecationWarning, match='camvid_small.py is deprecated'):
        assert 'renamed' not in load_config(str(tmp_path / 'mine.py'))
