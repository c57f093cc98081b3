"""What users typed in the release before keeps working, with one warning."""

from __future__ import annotations

import pytest
from evaluation.pixel_scenes import PixelEncoder, noise_scenes, scenes
from tool_loading import load_tool

from cotap_mm import evaluation
from cotap_mm.evaluation import LabeledSet
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


OVERCLUSTERING = (
    'num_clusters',
    'seeds',
    'num_components',
    'mask_size',
    'background',
    'kmeans',
)


class Attending(PixelEncoder):
    """Encoder with CLS attention, for the foreground protocol."""

    def cls_attention(self, images):
        return images[:, :2, ::4, ::4].abs() + 0.1


@pytest.mark.parametrize(
    'protocol, num_sets, options',
    [
        ('dense_retrieval', 2, dict(k=3)),
        ('linear_segmentation', 2, dict(variant='cotap', steps=2)),
        ('knn_classification', 2, dict(k=2)),
        ('linear_classification', 2, dict(epochs=2)),
        ('overclustering', 1, dict(zip(OVERCLUSTERING, ((4,), (0,), 3, 8, 0, 'sklearn')))),
        ('dispersion', 1, dict(purity=0.5)),
        ('foreground', 1, dict(foreground_classes=[1])),
        ('correspondence', 1, dict(pairs='consecutive')),
    ],
)
def test_data_sets_in_separate_arguments(protocol, num_sets, options):
    measure, encoder = getattr(evaluation, protocol), Attending()
    parts = [noise_scenes(4, 8), noise_scenes(3, 8, seed=1)][:num_sets]
    if protocol.endswith('classification'):
        parts = [[dict(s, label=i % 3) for i, s in enumerate(part)] for part in parts]
    reading = dict(image_size=16, batch_size=2)
    new = measure(encoder, *(LabeledSet(part, 3, **reading) for part in parts), **options)
    with pytest.warns(
        DeprecationWarning, match=rf'{protocol}\(encoder, .*num_classes, .* is deprecated, use '
    ) as warned:
        old = measure(encoder, *parts, 3, *options.values(), **reading)  # by position
    assert len(warned) == 1 and old.keys() == new.keys()
    assert repr(old) == repr(new)  # NaN included
    names = {
        1: ['dataset'],
        2: ['memory', 'queries'] if 'retrieval' in protocol else ['train', 'val'],
    }
    with pytest.warns(DeprecationWarning, match='is deprecated, use '):
        named = measure(
            encoder, **dict(zip(names[num_sets], parts)), num_classes=3, **options, **reading
        )
    assert repr(named) == repr(new)


def test_last_position_of_the_separate_arguments():
    new = evaluation.dense_retrieval(
        PixelEncoder(), LabeledSet(scenes(2), 3, 16, 1), LabeledSet(scenes(2), 3, 16, 1), 3, seed=1
    )
    with pytest.warns(DeprecationWarning, match='is deprecated, use '):
        old = evaluation.dense_retrieval(
            PixelEncoder(), scenes(2), scenes(2), 3, 3, 0.02, None, 0, 16, 1, 'cpu', None, 1
        )
    assert old == new
