"""Parts of a training are built on trial before its neighbors are computed."""

from __future__ import annotations

import copy
import gc
import glob
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from PIL import Image

from cotap_mm.command_line.config_file import load_config
from cotap_mm.datasets.opened import forget_sources
from cotap_mm.datasets.sources import files
from cotap_mm.engine import trial_build
from cotap_mm.engine.launch.preflight import prepare
from cotap_mm.engine.trial_build import build_on_trial
from cotap_mm.registry import HOOKS, MODELS
from tests.helpers.forked_ranks import FORK, on_forked_ranks
from tests.helpers.toy_config import toy_options

CONFIGS = sorted(glob.glob(str(Path(__file__).parents[2] / 'configs' / 'cotap' / '*.py')))


class Untouched:
    """10^8 images of which none, and no name, may be read."""

    def __len__(self):
        return 10**8

    def name(self, index):
        raise AssertionError('a name is read')

    def read(self, index, is_large_enough=None):
        raise AssertionError('an image is read')

    def found_range(self):
        raise AssertionError('images are read')


class UsersHook(Hook):
    """Something that may be built only once."""

    def __init__(self):
        raise AssertionError('built on trial')


def toy_config(**options):
    config = load_config('vits_folder')
    config.merge_from_dict(toy_options(batch_size=2, iters=4))
    config.model.init_cfg = None
    config.merge_from_dict(options)
    return config


def branches(config):
    data = config.train_dataloader.dataset
    return {name: Untouched() for name in ('patch', 'cls') if data.get(name)}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: Path(path).stem)
def test_shipped_configs_pass_without_weights_and_images(path, monkeypatch):
    config, devices = Config.fromfile(path), []
    config.custom_hooks = []  # their images are not here
    build_model = trial_build._Parts.build_model

    def watched(parts, model):
        devices.append(torch.empty(0).device.type)
        return build_model(parts, model)

    monkeypatch.setattr(trial_build._Parts, 'build_model', watched)
    before = copy.deepcopy(config._cfg_dict.to_dict())
    state = torch.get_rng_state()
    build_on_trial(config, branches(config))
    assert config._cfg_dict.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state) and gc.isenabled()
    assert devices == ['meta']


def test_nothing_is_built_without_a_search(monkeypatch):
    monkeypatch.setattr(trial_build, '_Parts', None)
    for change in ({'train_dataloader.dataset.neighbors': 'n.npy'}, dict(runner_type='Other')):
        config = toy_config(**change)
        build_on_trial(config, branches(config))


def test_hooks_and_data_sets_of_users_are_not_built_twice():
    config = toy_config()
    HOOKS.register_module(module=UsersHook)
    try:
        config.train_dataloader.dataset.type = 'ToyScenes'  # which has no such options
        config.default_hooks.own = dict(type='UsersHook')
        config.custom_hooks = [
            dict(type='UsersHook'),
            dict(type=UsersHook),
            UsersHook.__new__(Hook),
        ]
        build_on_trial(config, branches(config))
    finally:
        HOOKS.module_dict.pop('UsersHook')
    config.custom_hooks = [dict(type='EmptyCacheHook', after_iters=True)]
    with pytest.raises(TypeError, match='after_iters'):
        build_on_trial(config, branches(config))


def test_a_model_that_needs_values_is_built_with_values():
    class NeedsValues(MODELS.get('DINOViT')):
        def __init__(self, **options):
            super().__init__(**options)
            self.sum = float(torch.ones(3).sum())

    MODELS.register_module(module=NeedsValues)
    try:
        config = toy_config(**{'model.backbone.type': 'NeedsValues'})
        build_on_trial(config, branches(config))
        config.model.backbone.patch_sizes = 3
        with pytest.raises(TypeError, match='patch_sizes'):
            build_on_trial(config, branches(config))
    finally:
        MODELS.module_dict.pop('NeedsValues')


def test_schedules_end_with_the_training():
    config = toy_config()
    config.param_scheduler = [
        dict(type='OneCycleLR', eta_max=1e-3, by_epoch=False),
        dict(type='LinearLR', start_factor=0.1, end=2, convert_to_iter_based=True),
    ]
    build_on_trial(config, branches(config))
    config.param_scheduler[1].start_factor = 7
    scopes = list(DefaultScope._instance_dict)
    with pytest.raises(ValueError, match='Starting multiplicative factor'):
        build_on_trial(config, branches(config))
    assert list(DefaultScope._instance_dict) == scopes


class Refused:
    """Prepare a training whose data set will be refused."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, rank):
        config = toy_config(work_dir=self.folder, launcher='pytorch')
        source = dict(type='ToyScenes', num_images=6, image_size=32, _delete_=True)
        crops = dict(global_scale=(0.5, 0.1))
        config.merge_from_dict(dict(train_dataloader=dict(dataset=dict(patch=source, crops=crops))))
        try:
            prepare(config)
        except ValueError as error:
            return str(error)


@pytest.mark.skipif(FORK is None, reason='forks processes')
@pytest.mark.dist
def test_all_ranks_refuse(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'results').mkdir()
    for message in on_forked_ranks(Refused(tmp_path / 'run'), tmp_path / 'results'):
        assert 'global_scale must be 0 < low <= high <= 1' in message
    assert not list((tmp_path / 'run').rglob('*neighbors*'))


def test_labeled_images_are_listed_once(tmp_path, monkeypatch):
    for part in ('train', 'val'):
        for kind in ('images', 'labels'):
            (tmp_path / kind / part).mkdir(parents=True)
            Image.new('L', (8, 8)).save(tmp_path / kind / part / 'a.png')
    data = {
        part: dict(
            type='ImageMaskFolder',
            images=str(tmp_path / 'images' / part),
            labels=str(tmp_path / 'labels' / part),
        )
        for part in ('train', 'val')
    }
    config = toy_config()
    config.custom_hooks = [dict(type='EvaluationHook', num_classes=2, **data)]
    listed = []
    scan = files.find_images
    monkeypatch.setattr(files, 'find_images', lambda root: listed.append(root.name) or scan(root))
    forget_sources()
    build_on_trial(config, branches(config))
    assert sorted(listed) == ['train', 'val']
    hook = HOOKS.build(copy.deepcopy(config.custom_hooks[0]))  # as the Runner does
    assert len(listed) == 2 and len(hook.data.val) == len(hook.data.train) == 1
    HOOKS.build(config.custom_hooks[0])  # of another training
    assert len(listed) == 4
