"""Data sets are found inside nested wrappers."""

from __future__ import annotations

import pytest

from cotap_mm.datasets.wrapped import inner_datasets

A, B = dict(type='A', data_root='a'), dict(type='mmseg.B')


@pytest.mark.parametrize(
    'config, expected',
    [
        (A, [A]),
        (dict(type='RepeatDataset', times=9, dataset=A), [A]),
        (dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=B), [B]),
        (dict(type='MultiImageMixDataset', dataset=A, pipeline=[dict(type='Mosaic')]), [A]),
        (dict(type='ConcatDataset', datasets=[A, B]), [A, B]),
        (
            dict(
                type='mmdet.RepeatDataset',
                dataset=dict(
                    type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=A), B]
                ),
            ),
            [A, B],
        ),
    ],
)
def test_inner_datasets(config, expected):
    inner = inner_datasets(config)
    assert len(inner) == len(expected)
    assert all(one is other for one, other in zip(inner, expected))


@pytest.mark.parametrize(
    'config, message',
    [
        (dict(type='KFoldDataset', dataset=A, fold=0), 'selects a part of its images'),
        (dict(type='ConcatDataset', datasets=[]), 'at least one data set'),
        (dict(type='RepeatDataset', dataset='A'), 'must be a dict'),
        ('CocoDataset', 'must be a dict with a type, got str'),
    ],
)
def test_configs_that_cannot_be_unwrapped(config, message):
    with pytest.raises(ValueError, match=message):
        inner_datasets(config)
