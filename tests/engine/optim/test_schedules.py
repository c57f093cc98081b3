"""Schedules fit the length of the training; loader options fit the number of workers."""

from __future__ import annotations

import argparse

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine.launch import config as run_config
from cotap_mm.engine.optim.schedules import fit_schedules

WARMUP = dict(type='LinearLR', by_epoch=False, begin=0, end=1500)
POLY = dict(type='PolyLR', by_epoch=False, begin=1500)
STEPS = dict(type='MultiStepLR', by_epoch=False, begin=1500, end=16000, milestones=[8000, 12000])
EPOCHS = [dict(type='LinearLR', begin=0, end=5), dict(type='CosineAnnealingLR', begin=5, T_max=95)]


@pytest.mark.parametrize(
    'unit, usual, length, given, expected',
    [
        ('max_iters', 16000, 4, [WARMUP, POLY], [dict(POLY, begin=0)]),
        ('max_iters', 16000, 1600, [WARMUP, POLY], [WARMUP, POLY]),  # it fits
        ('max_iters', 16000, 1500, [WARMUP, POLY], [dict(WARMUP, end=140), dict(POLY, begin=140)]),
        ('max_iters', 16000, 32000, [WARMUP, POLY], [WARMUP, POLY]),
        (
            'max_iters',
            16000,
            1000,
            [WARMUP, dict(STEPS, end=1500)],
            [dict(WARMUP, end=93), dict(STEPS, begin=93, end=93, milestones=[500, 750])][:1],
        ),
        ('max_iters', 16000, 1000, [WARMUP, STEPS], [WARMUP, STEPS]),  # MMEngine accepts it
        ('max_iters', 16000, 4, POLY, [dict(POLY, begin=0)]),
        (
            'max_iters',
            16000,
            4,
            dict(a=[WARMUP, POLY], b=WARMUP),
            dict(a=[dict(POLY, begin=0)], b=[]),
        ),
        ('max_iters', 16000, 4, None, None),
        ('max_epochs', 100, 2, EPOCHS, [dict(EPOCHS[1], begin=0, T_max=1)]),
        ('max_epochs', 100, 2, [WARMUP, *EPOCHS], [WARMUP, dict(EPOCHS[1], begin=0, T_max=1)]),
        (
            'max_epochs',
            6,
            1,
            [WARMUP, dict(type='MultiStepLR', milestones=[4])],
            [WARMUP, dict(type='MultiStepLR', milestones=[4])],
        ),
    ],
)
def test_shorter_trainings(unit, usual, length, given, expected):
    config = Config(dict(train_cfg={unit: length}, param_scheduler=given))
    fit_schedules(config, (unit, usual))
    assert Config(dict(found=config.param_scheduler)).found == Config(dict(found=expected)).found


@pytest.mark.parametrize(
    'stated, usual, message',
    [
        (dict(max_iters=0), 10, 'max_iters must be an integer >= 1, got 0'),
        (dict(max_iters='4'), 10, "max_iters must be an integer >= 1, got '4'"),
        (dict(max_iters=1.5), 10, 'max_iters must be an integer >= 1, got 1.5'),
        (dict(max_iters=4, max_epochs=2), 10, 'either max_iters or max_epochs, .* the one that'),
        (
            dict(max_iters=1000),
            1000,
            'PolyLR begins at 1500, but the training ends at '
            'train_cfg.max_iters=1000; lower its begin',
        ),
    ],
)
def test_invalid_lengths(stated, usual, message):
    with pytest.raises(ValueError, match=message):
        fit_schedules(
            Config(dict(train_cfg=stated, param_scheduler=[WARMUP, POLY])), ('max_iters', usual)
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, options',
    [
        ('vits_folder', {}),
        ('camvid_toy', {}),
        ('camvid_linear', {}),
        ('raccoon_mask-rcnn', {'train_dataloader.prefetch_factor': 4, 'val_dataloader.timeout': 9}),
    ],
)
def test_no_workers(name, options):
    """``num_workers=0`` alone is enough, for every loader and with options that need workers."""
    config = load_config(name)
    loaders = [
        part
        for part in ('train_dataloader', 'val_dataloader', 'test_dataloader')
        if config.get(part)
    ]
    run_config.finish_config(
        config,
        argparse.Namespace(
            launcher='none',
            work_dir='w',
            config=name,
            cfg_options={**options, **{f'{part}.num_workers': 0 for part in loaders}},
        ),
    )
    for part in loaders:
        kept = {
            key: value
            for key, value in config[part].items()
            if key
            in (
                'num_workers',
                'persistent_workers',
                'prefetch_factor',
                'timeout',
                'pin_memory',
                'multiprocessing_context',
            )
        }
        next(iter(DataLoader([1, 2], **dict(kept, pin_memory=False))))
    config = load_config(name)
    config.train_dataloader.update(num_workers=2, persistent_workers=True)
    run_config.adapt_loaders(config)
    assert config.train_dataloader.persistent_workers
