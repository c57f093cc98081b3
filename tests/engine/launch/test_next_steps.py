"""The lines at the end of a training are commands that work."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.visualization import TensorboardVisBackend

from cotap_mm.cli.train import parse_args as parse_train
from cotap_mm.cli.visualize import parse_args as parse_visualize
from cotap_mm.command_line.config_file import load_config
from cotap_mm.commands.train import build_config
from cotap_mm.engine.launch.next_steps import describe_next_steps, fine_tuning, images_options
from cotap_mm.registry import MODELS, build
from tests.helpers.toy_config import ARCH, write_init


def finished(folder, config, model=None):
    """Stand-in for a Runner after its training."""
    path = folder / 'iter_4.pth'
    path.touch()
    return SimpleNamespace(
        cfg=config,
        model=model,
        work_dir=str(folder),
        visualizer=SimpleNamespace(_vis_backends={}),
        message_hub=SimpleNamespace(runtime_info=dict(last_ckpt=str(path))),
    )


def network(width, patch, prototypes, num_layers=2):
    """Stand-in for the algorithm: channels and patch size of the ViT, prototypes of the filter."""
    return SimpleNamespace(
        backbone=SimpleNamespace(embed_dims=width, patch_size=patch, num_layers=num_layers),
        neck=SimpleNamespace(
            num_prototypes=prototypes, out_channels=(2 if prototypes else 1) * width
        ),
    )


def test_three_lines_after_a_pretraining(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'my run'
    folder.mkdir()
    source = dict(type='ImageList', root='my images', ann_file='list.txt')
    config = Config(dict(train_dataloader=dict(dataset=dict(patch=source))))
    runner = finished(folder, config, network(384, 16, 64))
    backends = runner.visualizer._vis_backends
    backends['tensorboard'] = TensorboardVisBackend(str(folder))
    first, load, look, tune, curves = describe_next_steps(runner, 'c.py').splitlines()
    assert curves.endswith("tensorboard --logdir 'my run'")
    assert first == 'training is complete: my run/iter_4.pth'
    assert load.endswith("encoder = cotap_mm.load('my run/iter_4.pth')")
    words = shlex.split(look)
    assert words[3:5] == ['cotap', 'visualize']
    args = parse_visualize(words[5:])
    assert args.checkpoints == ['my run/iter_4.pth'] and args.images == 'my images'
    assert args.ann_file == 'list.txt' and args.out == 'my run/pictures'
    words = shlex.split(tune)
    assert words[2:] == [
        'cotap', 'train', 'configs/downstream/voc_linear.py', '--init', 'my run/iter_4.pth'
    ]  # fmt: skip


def test_nothing_without_a_checkpoint(tmp_path):
    runner = finished(tmp_path, Config(dict(default_scope='mmseg')))
    text = describe_next_steps(runner, 'configs/downstream/voc_linear.py')
    assert text.splitlines()[1].split('cotap ')[1] == (
        f'test configs/downstream/voc_linear.py {tmp_path}/iter_4.pth'
    )
    (tmp_path / 'iter_4.pth').unlink()
    assert describe_next_steps(runner, 'c.py') == ''
    runner.message_hub.runtime_info.clear()
    assert describe_next_steps(runner, 'c.py') == ''


@pytest.mark.parametrize(
    'source, expected',
    [
        (dict(type='ToyScenes', num_images=3), '--images DIR'),
        (dict(type='PackedImages', root='a.lmdb'), '--images a.lmdb'),
        (
            dict(type='ImageList', root='a b', value_range=[0, 4095]),
            "--images 'a b' --value-range 0 4095",
        ),
        (dict(type='ImageList', root='a', value_range='auto'), '--images a'),
    ],
)
def test_images(source, expected):
    config = Config(dict(train_dataloader=dict(dataset=dict(patch=source))))
    assert images_options(config) == expected


@pytest.mark.parametrize(
    'size, arch, config',
    [
        ((96, 8, 16), None, 'camvid_linear'),
        ((384, 16, 64), 'deit-small', 'voc_linear'),
        ((768, 16, 64), 'deit-base', 'custom_upernet'),
        ((768, 8, 64), 'deit-base', ''),
        ((1024, 16, 64), 'large', ''),
        ((16, 8, 2), ARCH, ''),
        ((16, 8, 0), ARCH, ''),
    ],
)
def test_backbone_of_the_downstream_config_takes_the_weights(tmp_path, size, arch, config):
    pretraining = Config(dict(model=dict(backbone=dict(arch=arch))))
    words = shlex.split(fine_tuning(network(*size), 'init.pth', pretraining))
    assert config in words[0]
    if config:
        backbone = load_config(words[0]).model.backbone
    else:
        built = build_config(parse_train([*words, '--work-dir', str(tmp_path / 'run')])).model
        backbone = built.backbone
        assert backbone.frozen_stages == 2
        assert built.decode_head.in_channels == (2 if size[2] else 1) * size[0]
        if size[0] == 16:  # others are large
            backbone.init_cfg.checkpoint = str(write_init(tmp_path / 'init.pth'))
            build(MODELS, backbone).init_weights()
    assert backbone.get('patch_size') == size[1]
    assert (backbone.get('num_prototypes', 64) if size[2] else 0) == size[2]
    if arch is not None:
        assert backbone.arch == arch


def test_registers_and_rotary_positions_reach_the_downstream_config(tmp_path):
    backbone = dict(arch=dict(ARCH, ffn='swiglu'), num_registers=4, rope=dict(theta=100.0))
    words = shlex.split(
        fine_tuning(network(384, 16, 64), 'init.pth', Config(dict(model=dict(backbone=backbone))))
    )
    found = build_config(parse_train([*words, '--work-dir', str(tmp_path / 'run')])).model.backbone
    assert found.num_registers == 4 and found.rope == dict(theta=100.0)
    assert found.arch.ffn == 'swiglu'
    vit = build(MODELS, dict(found, init_cfg=None, frozen_stages=-1, out_indices=-1))
    assert vit.num_registers == 4 and vit.rope is not None
