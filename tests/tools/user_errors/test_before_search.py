"""What a run would refuse when it builds its parts is refused before neighbors are computed."""

from __future__ import annotations

import pytest

from cotap_mm.engine.launch import preflight
from tests.helpers.user_errors import TRAIN, check_user_error

DATA = 'train_dataloader.dataset'
#: Option of the config -> the sentence of the class that refuses it.
REFUSED = {
    f'{DATA}.crop_on=gpu': "crop_on must be one of .* got 'gpu'",
    f'{DATA}.crops.global_scale=(0.5,0.1)': 'global_scale must be 0 < low <= high <= 1, got',
    f'{DATA}.crops.min_overlap=(0.01,)': r'crops.min_overlap: expected two numbers, got \(0.01,\)',
    f'{DATA}.max_bad_fraction=7': r'dataset.max_bad_fraction: expected a number in \[0, 1\], got 7',
    f'{DATA}.patience=-1': 'dataset.patience: expected a number of seconds >= 0, .* got -1',
    'train_dataloader.sampler.order=gpu': "order must be 'auto', .* got 'gpu'",
    'train_dataloader.sampler.seed=-5': 'sampler.seed: expected an integer >= 0, or None, got -5',
    'train_dataloader.batch_sampler=3': 'batch_sampler option is mutually exclusive',
    'train_dataloader.collate_fn.type=stack': "collate_fn.type: unknown function 'stack'",
    'train_dataloader.worker_init_fn.type=go': "worker_init_fn.type: unknown function 'go'",
    'optim_wrapper.paramwise_cfg.lr_mult=2': 'accepts head_lr_mult, .* got lr_mult',
    'optim_wrapper.paramwise_cfg.head_lr_mult=x': "head_lr_mult must be a number >= 0, got 'x'",
    'optim_wrapper.optimizer.amsgrad=x': "amsgrad: expected True or False, got 'x'",
    'optim_wrapper.optimizer.eps=-1': 'eps: expected a number >= 0, got -1',
    'param_scheduler.0.eta_min=x': "eta_min: expected a number >= 0, got 'x'",
    'param_scheduler.0.T_max=-3': 'T_max: expected an integer >= 1, got -3',
    'param_scheduler.0.eta_min_ratio=0.1': 'Either `eta_min` or `eta_min_ratio',
    'default_hooks.checkpoint.interval_minutes=-1': 'expected a number > 0, or None',
    'default_hooks.logger.priority=first': 'KeyError: FIRST',
    'log_processor.mean_pattern=7': 'mean_pattern=7: TypeError',
    'model.memory.patch_queue.dtype=int8': "patch_queue.dtype: expected one of .* got 'int8'",
    'model.data_preprocessor.color.hue=0.1': 'own preprocessor are data_preprocessor.color and',
    'data_preprocessor.color.hue=7': r'color.hue must be a number in \[0, 0.5\], or two .* got 7',
    'model.pairs.num_negatives=-5': 'model.pairs.num_negatives: expected an integer >= 0, got -5',
    'default_hooks.monitor.interval=0': 'monitor.interval: expected an integer >= 1, got 0',
    'param_scheduler.0.eta_min=-1': 'eta_min: expected a number >= 0, got -1',
}


@pytest.mark.parametrize('option', REFUSED)
def test_refused_before_neighbors_are_computed(tools, place, capsys, monkeypatch, option):
    def search(*args, **kwargs):
        raise AssertionError('neighbors are computed first')

    monkeypatch.setattr(preflight, 'ensure_neighbors', search)
    line = f'{TRAIN} --init none --cfg-options {option}'
    check_user_error(tools('train').main, place, capsys, line, 1, REFUSED[option])
