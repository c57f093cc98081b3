"""Errors in a config are reported by key before anything is built."""

from __future__ import annotations

import glob
import inspect
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import Registry

from cotap_mm import registry as registries
from cotap_mm.command_line.arguments import KeyValues, Parser
from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine.hooks import AtomicCheckpointHook
from cotap_mm.engine.launch.overrides import check_overrides, replacing_dicts
from cotap_mm.engine.launch.validation import check_config

ROOT = Path(__file__).resolve().parents[3]


def config_with(**options):
    config = load_config('vits_folder')
    config.merge_from_dict(options)
    return config


@pytest.mark.parametrize('path', sorted(glob.glob(str(ROOT / 'configs' / 'cotap' / '*.py'))))
def test_shipped_configs_are_valid(path, monkeypatch):
    for name in ('CAMVID', 'RACCOON'):
        monkeypatch.setenv(name, '.')
    check_config(Config.fromfile(path))


@pytest.mark.parametrize(
    'key, value, message',
    [
        (
            'model.losses.patch_ranking.tua',
            0.3,
            r"losses.patch_ranking.tua: PatchRankingLoss has no such option; did you mean 'tau'",
        ),
        ('model.backbone.img_sise', 3, r"model.backbone.img_sise: DINOViT .* mean 'img_size'\?"),
        ('model.head.patch.num_cluster', 3, "head.patch.num_cluster: .* mean 'num_clusters'"),
        ('model.pairs.topk', 'x', r"model.pairs.topk: expected an integer >= 1, or None, got 'x'"),
        ('model.pairs.top', 3, "model.pairs.top: PatchPairSampler has no such option; .* 'topk'"),
        (
            'model.memory.patch_queue.sise',
            3,
            "model.memory.patch_queue.sise: AssignmentQueue .*'size'",
        ),
        ('model.losses.patch_ranking.tau', 'high', "tau: expected a number > 0, got 'high'"),
        ('model.init_cfg.chekpoint', 'x', "model.init_cfg.chekpoint: .* mean 'checkpoint'"),
        ('train_dataloader.batchsize', 3, "train_dataloader.batchsize: .* mean 'batch_size'"),
        ('train_dataloader.dataset.crops.local_scale', [0.1, 'a'], 'crops.local_scale: expected '),
        ('train_dataloader.dataset.num_neighbours', 3, "num_neighbours: .* mean 'num_neighbors'"),
        ('train_dataloader.dataset.patch.roots', 3, "patch.roots: ImageList .* mean 'root'"),
        (
            'optim_wrapper.acumulative_counts',
            3,
            "optim_wrapper.acumulative_counts: .* mean 'accumul",
        ),
        ('optim_wrapper.dtype', 16, 'optim_wrapper.dtype: expected one of auto, .* got 16'),
        ('optim_wrapper.optimizer.lr', 'abc', "optimizer.lr: expected a number.*, got 'abc'"),
        ('default_hooks.teacher.stop', 0.99, 'hooks.teacher.stop: TeacherHook has no such option'),
        ('train_cfg.max_iter', 5, "train_cfg.max_iter: ResumableTrainLoop .* mean 'max_iters'"),
        (
            'model.losses.patch_ranking.type',
            'PatchRankinLoss',
            "patch_ranking.type: unknown class 'PatchRankinLoss'; did you mean 'PatchRankingLoss'",
        ),
        ('model.foreground.mas', 0.5, "model.foreground.mas: ClsAttention .* mean 'mass'"),
        (
            'model.foreground.mass',
            2,
            r'model.foreground.mass: expected a number in \(0, 1\], got 2',
        ),
        (
            'model.foreground',
            dict(type='PcaForeground', mass=1),
            'foreground.mass: PcaForeground has',
        ),
        ('train_dataloader.dataset.crops.type', 'MultiCorp', "crops.type: .* mean 'MultiCrop'"),
        ('model.backbone.drop_path_rate', 2, r'drop_path_rate: expected a number in \[0, 1\), got'),
        ('model.data_preprocessor.mean', [0, 0, 0], 'own preprocessor are data_preprocessor.color'),
        (
            'default_hooks.teacher.start',
            -1,
            r'teacher.start: expected a number in \[0, 1\], got -1',
        ),
        ('default_hooks.schedule_length.foo', 1, 'foo: ScheduleLengthHook has no such option'),
        ('train_cfg.val_begin', -4, 'train_cfg.val_begin: expected an integer >= 0, got -4'),
        (
            'strategy',
            dict(type='cotap_mm.CoTAPFSDPStrategy', version=3),
            'strategy.version must be 1 or 2, got 3',
        ),
        (
            'strategy',
            dict(type='cotap_mm.CoTAPFSDPStrategy', version=2, model_wrapper=dict(type='X')),
            'strategy.model_wrapper is an option of strategy.version=1',
        ),
        ('model.backbone.with_cp', 3, 'with_cp: expected bool or str, got 3'),
        (
            'strategy',
            dict(type='cotap_mm.CoTAPFSDPStrategy', versions=1),
            "strategy.versions: CoTAPFSDPStrategy has no such option; did you mean 'version'",
        ),
        (
            'strategy.type',
            'cotap_mm.CoTAPFSDPStrategi',
            "strategy.type: unknown class .*; did you mean 'CoTAPFSDPStrategy'",
        ),
    ],
)
def test_errors_name_the_key(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_config(config_with(**{key: value}))


def test_all_errors_are_reported():
    with pytest.raises(ValueError) as found:
        check_config(config_with(**{'model.pairs.topk': 'x', 'model.pairs.tau': 1}))
    assert str(found.value).count('\n  model.pairs.') == 2


@pytest.mark.parametrize(
    'key', ['default_hooks.timer', 'param_scheduler.0', 'optim_wrapper.optimizer']
)
def test_option_names_of_other_libraries_are_checked(key):
    with pytest.raises(ValueError, match=f'{key}.anything: .* has no such option'):
        check_config(config_with(**{f'{key}.anything': 3}))


def test_parts_that_have_a_usual_type():
    check_config(
        config_with(
            **{'model.foreground.mass': 0.5, 'train_dataloader.dataset.crops.type': 'MultiCrop'}
        )
    )


def test_parts_of_other_libraries_are_not_checked():
    check_config(
        config_with(
            **{
                'mine': dict(a=1),
                'default_hooks.teacher.priority': 'LOW',
                'param_scheduler.0.convert_to_iter_based': True,
                'optim_wrapper.optimizer.amsgrad': 2,
                'model.backbone.arch': 'mine',
                'strategy': dict(
                    type='cotap_mm.CoTAPFSDPStrategy',
                    activation_checkpointing=dict(check_fn=dict(type='Mine')),
                ),
                'model.losses.patch_ranking': None,
            }
        )
    )


def test_options_of_unknown_parts():
    config = config_with()
    check_overrides(config, {'model.x': 1, 'val_cfg.type': 'ValLoop', 'strategy.version': 2})
    with pytest.raises(ValueError, match="modle.x: the config has no 'modle'; did you mean 'mod"):
        check_overrides(config, {'modle.x': 1})
    with pytest.raises(ValueError, match='custom_hooks.1.start: the config has 0 .* default_hooks'):
        check_overrides(config, {'custom_hooks.1.start': 1})


def merged(*options):
    """Options as typed, merged into a config."""
    parser = Parser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues)
    config = config_with(**{'model.init_cfg': None})
    values = parser.parse_args(['--cfg-options', *options]).cfg_options
    check_overrides(config, values)
    config.merge_from_dict(replacing_dicts(config, values))
    return config.model


def test_a_dict_replaces_another_value():
    assert isinstance(config_with().model.backbone.arch, str)
    arch = dict(embed_dims=16, num_layers=2)
    assert merged('model.backbone.arch=dict(embed_dims=16, num_layers=2)').backbone.arch == arch
    assert merged("model.backbone.arch={'embed_dims': 16, 'num_layers': 2}").backbone.arch == arch
    init = dict(type='PretrainedViT', checkpoint='a,b.pth')
    assert (
        merged("model.init_cfg=dict(type='PretrainedViT', checkpoint='a,b.pth')").init_cfg == init
    )
    new = merged('model.new=dict(a=dict(b=[1, (2.5, -3)]))', 'model.other=1,2')
    assert new.new == dict(a=dict(b=[1, (2.5, -3)])) and new.other == [1, 2]


def test_a_dict_is_merged_into_a_dict():
    both = merged('model.pairs=dict(topk=2)').pairs
    assert both.topk == 2 and both.num_negatives == 5


@pytest.mark.parametrize(
    'option, message',
    [
        (
            'model.backbone.arch.embed_dims=192',
            "model.backbone.arch is 'deit-small', which has no keys; replace it as a whole: "
            r'model.backbone.arch="dict\(embed_dims=..., ...\)"',
        ),
        ('model.init_cfg.checkpoint=x.pth', 'model.init_cfg is None, which has no keys'),
        ('model.pairs=3', 'this is a dict, so set one of its keys'),
    ],
)
def test_options_below_a_value(option, message):
    with pytest.raises(ValueError, match=message):
        merged(option)


def test_a_dict_over_a_value_of_the_base_config(tmp_path):
    own = tmp_path / 'own.py'
    for arch, message in (
        ('embed_dims=16', r'arch is a dict here, .* \(str\); .* write arch=dict\(_delete_=True'),
        ('_delete_=True, embed_dims=16', None),
    ):
        base = ROOT / 'configs' / 'cotap' / 'vits_folder.py'
        own.write_text(f'_base_ = {str(base)!r}\nmodel = dict(backbone=dict(arch=dict({arch})))\n')
        if message:
            with pytest.raises(ValueError, match=message):
                load_config(str(own))
        else:
            assert load_config(str(own)).model.backbone.arch == dict(embed_dims=16)


def test_checkpoint_hook():
    with pytest.raises(ValueError, match='default_hooks.checkpoint: unknown option intervall'):
        AtomicCheckpointHook(intervall=5)


def test_types_of_options_can_be_evaluated_by_python_3_9():
    """Its ``typing.get_type_hints`` does not know ``X | Y``."""
    modern = [
        f'{kind.__name__}: {name}: {parameter.annotation}'
        for registry in vars(registries).values()
        if isinstance(registry, Registry)
        for kind in registry.module_dict.values()
        if kind.__module__.startswith('cotap_mm') and inspect.isclass(kind)
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if '|' in str(parameter.annotation)
    ]
    assert {'CoTAP', 'CoTAPDataPreprocessor'} <= set(registries.MODELS.module_dict)
    assert modern == []
