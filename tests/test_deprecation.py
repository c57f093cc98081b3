"""What users typed in the release before keeps working, with one warning."""

from __future__ import annotations

import pytest
from PIL import Image
from tool_loading import load_tool

from cotap_mm.datasets import ImageList, MultiCrop, ToyScenes, read_image
from cotap_mm.datasets.read_with_retry import read_with_retry
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


def test_old_name_of_the_size_predicate(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (80, 40)).save(path)
    scenes = ToyScenes(num_images=1, image_size=32)
    asked = []
    for read in (
        lambda **options: read_image(path, **options),
        lambda **options: ImageList(tmp_path).read(0, **options),
        lambda **options: scenes.read(0, **options),
    ):
        with pytest.warns(DeprecationWarning, match='please use "is_large_enough"') as warned:
            read(enough=lambda height, width: asked.append((height, width)) or height >= 20)
        assert len(warned) == 1
    assert len(asked) == 6 and asked[-1] == (20, 40)  # an eighth, a quarter, a half; twice


def test_old_method_of_multi_crop():
    crop = MultiCrop()
    with pytest.warns(DeprecationWarning, match='use MultiCrop.is_large_enough'):
        assert crop.is_enough(500, 500) == crop.is_large_enough(500, 500)


def test_sources_with_the_old_argument_of_read():
    """Both arguments of ``read`` are positional, so that their names do not matter."""

    class Source:
        def read(self, index, enough=None):
            return index, enough

    assert read_with_retry(Source(), 3, len, None) == (3, len)
