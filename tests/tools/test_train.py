"""tools/train.py: train on a folder, resume, report errors; on one and two processes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import cotap_mm.commands.train
from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine.launch import config as run_config
from cotap_mm.engine.launch import preflight
from tests.helpers import mistakes
from tests.helpers.tool_loading import forget_runs, load_tool
from tests.helpers.toy_config import write_noise

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""{mistakes.CONFIG}
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
custom_hooks = [dict(type='TeacherHook'), dict(type='MonitorHook', interval=2),
                dict(type='ScheduleLengthHook')]
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='mmengine.Visualizer', vis_backends=vis_backends)
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        write_noise(tmp_path / 'images' / f'{index}.png', rng, (40, 48))
    (tmp_path / 'tiny.py').write_text(CONFIG)
    return tmp_path


def train(folder, *arguments):
    forget_runs()  # as in a process of its own
    load_tool('train').main(
        [
            str(folder / 'tiny.py'),
            '--images',
            str(folder / 'images'),
            '--work-dir',
            str(folder / 'run'),
            *arguments,
        ]
    )


def logged(folder):
    records = sorted((folder / 'run').glob('*/vis_data/scalars.json'))
    return [json.loads(line) for record in records for line in record.read_text().splitlines()]


@pytest.mark.slow
def test_dry_run_trains_and_writes_nothing(folder, capsys):
    before = sorted(folder.rglob('*'))
    train(folder, '--dry-run', '--cfg-options', 'train_cfg.max_iters=36000')
    messages = capsys.readouterr().out.splitlines()[-4:]
    assert messages[0].startswith('dry run passed: 0.0 M trainable parameters, 2 samples per step')
    step = float(re.search('a step takes ([0-9.]+) s', messages[1])[1])
    hours = float(re.search('36000 iterations take about ([0-9.]+) hours', messages[1])[1])
    assert hours == pytest.approx(10 * step, abs=0.1)  # rounded
    assert re.search(r'peak memory of this process: [0-9.]+ GB', messages[2])
    assert messages[3] == 'not tested: a run first computes neighbors for patch (6 images)'
    assert sorted(folder.rglob('*')) == before
    for options, message in (
        (('model.pairs.topk=x',), 'model.pairs.topk: expected an integer >= 1, or None'),
        (('train_dataloader.dataset.crops.local_size=15',), 'e.g. 8'),
        (('train_dataloader.batch_size=0',), 'an integer >= 1, got 0'),
    ):
        with pytest.raises(SystemExit, match=message):
            train(folder, '--dry-run', '--cfg-options', *options)


@pytest.mark.slow
def test_trains_and_resumes(folder):
    train(folder, '--seed', '3')
    lines = logged(folder)
    assert [line['step'] for line in lines] == [1, 2, 3, 4]
    for name in (
        'patch_cluster',
        'cls_cluster',
        'patch_ranking',
        'cls_neighbor',
        'prototype_entropy',
    ):
        assert lines[-1][f'loss_{name}'] > 0, name
    for name in (
        'patch_mean_assignment_entropy',
        'cls_assignment_entropy',
        'foreground_share',
        'feature_std',
        'prototypes_in_use',
        'teacher_distance',
    ):
        assert f'monitor/{name}' in lines[-1], name
    assert lines[-1]['teacher_decay'] > lines[0]['teacher_decay']
    # At three quarters of a cosine from 3e-5 to 3e-6 over the whole run.
    assert lines[-1]['lr'] == pytest.approx(6.954e-6, rel=1e-3)
    assert list((folder / 'run').glob('*/vis_data/events.out.tfevents*'))
    (log,) = (folder / 'run').glob('*/*.log')
    text = log.read_text()
    assert 'training starts from random weights' in text
    for noise in ('metainfo', 'deprecated'):  # that a user cannot act on
        assert noise not in text
    checkpoint = torch.load(folder / 'run' / 'iter_4.pth', weights_only=True)
    state = checkpoint['state_dict']
    assert state['teacher.num_updates'] == 4
    assert state['patch_queue.num_filled'] > 0
    assert not torch.equal(state['backbone.pos_embed'], state['teacher.backbone.pos_embed'])

    train(folder, '--resume', '--cfg-options', 'train_cfg.max_iters=6')
    # Two runs that start in the same second write to one file.
    added = max((folder / 'run').glob('*/*.log')).read_text().removeprefix(text)
    assert 'resumed epoch: 0, iter: 4' in added and 'random weights' not in added
    resumed = torch.load(folder / 'run' / 'iter_6.pth', weights_only=True)
    assert resumed['meta']['iter'] == 6
    assert resumed['state_dict']['teacher.num_updates'] == 6
    assert logged(folder)[-1]['step'] == 6


@pytest.mark.slow
def test_amp_and_accumulation(folder):
    train(folder, '--amp', '--cfg-options', 'optim_wrapper.accumulative_counts=2')
    state = torch.load(folder / 'run' / 'iter_4.pth', weights_only=True)['state_dict']
    assert state['teacher.num_updates'] == 2
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.slow
def test_starts_from_a_checkpoint_of_ours(folder):
    train(folder)
    first = torch.load(folder / 'run' / 'iter_4.pth', weights_only=True)['state_dict']
    train(
        folder,
        '--overwrite',
        '--init',
        str(folder / 'run' / 'iter_4.pth'),
        '--cfg-options',
        'train_cfg.max_iters=2',
        'optim_wrapper.optimizer.lr=0',
    )
    second = torch.load(folder / 'run' / 'iter_2.pth', weights_only=True)['state_dict']
    torch.testing.assert_close(
        second['backbone.pos_embed'], first['backbone.pos_embed'], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--images', 'nowhere'], 'image folder nowhere does not exist'),
        (['--init', 'missing.pth'], 'checkpoint missing.pth is not a file'),
        (['--cfg-options', 'train_dataloader.batch_size=99'], 'do not fill one batch'),
        (['--trust'], '--trust requires --init'),
    ],
)
def test_errors_are_reported(folder, arguments, message):
    with pytest.raises(SystemExit, match=message):
        train(folder, *arguments)


def test_unknown_config():
    with pytest.raises(SystemExit, match=r'configs are configs/cotap/\{.*vitb_coco'):
        load_tool('train').main(['configs/cotap/vith.py'])


@pytest.mark.parametrize('name', ['configs/cotap/vits_folder.py', 'vits_folder'])
def test_config_is_found_from_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).train_cfg.max_iters == 100_000


def test_options_reach_the_config():
    args = load_tool('train').parse_args(
        [
            'vits_coco-in1k',
            '--images',
            'a',
            '--cls-images',
            'b',
            '--neighbors',
            'n.npz',
            '--init',
            'none',
            '--seed',
            '7',
            '--amp',
            '--auto-scale-lr',
            '--cfg-options',
            'randomness.diff=1',
        ]
    )
    config = cotap_mm.commands.train.build_config(args)
    dataset = config.train_dataloader.dataset
    assert (dataset.patch.root, dataset.cls.root) == ('a', 'b')
    assert (dataset.neighbors, dataset.cls_neighbors) == ('n.npz', 'auto')
    assert config.model.init_cfg is None and config.auto_scale_lr.enable
    assert config.randomness == dict(seed=7, diff=1)
    assert config.optim_wrapper.type == 'cotap_mm.MixedPrecisionOptimWrapper'
    assert config.work_dir == os.path.join('work_dirs', 'vits_coco-in1k')


def test_seed_keeps_other_randomness():
    config = Config(dict(randomness=dict(seed=0, deterministic=True)))
    run_config.set_seed(config, 5)
    assert config.randomness == dict(seed=5, deterministic=True)


def test_warns_of_random_initial_weights(folder, monkeypatch):
    messages = []
    monkeypatch.setattr(preflight, 'print_log', lambda text, **_: messages.append(text))
    monkeypatch.setattr(preflight, 'ensure_neighbors', lambda *_, **__: None)
    parse_args = load_tool('train').parse_args
    build_config = cotap_mm.commands.train.build_config
    options = [
        str(folder / 'tiny.py'),
        '--images',
        str(folder / 'images'),
        '--work-dir',
        str(folder / 'run'),
    ]
    for start in ([], ['--resume']):  # there is no checkpoint to resume from
        preflight.prepare(build_config(parse_args([*options, *start])))
        assert any('random weights' in text for text in messages)
        messages.clear()
    (folder / 'run').mkdir()
    torch.save(
        dict(meta=dict(iter=2, epoch=0), state_dict={}, message_hub={}),
        folder / 'run' / 'iter_2.pth',
    )
    preflight.prepare(build_config(parse_args([*options, '--resume'])))
    assert not any('random weights' in text for text in messages)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def launch(folder, python, *arguments):
    """``tools/dist_train.sh`` with two processes."""
    environment = dict(
        os.environ,
        PYTHON=python,
        OMP_NUM_THREADS='1',
        MASTER_PORT=free_port(),
        PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]),
    )
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', folder / 'tiny.py', '2']
    options = ['--images', folder / 'images', '--work-dir', folder / 'run', *arguments]
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.dist
@pytest.mark.smoke
def test_two_processes_end_with_the_same_weights(folder, warm_python):
    """Each rank saves its weights, since only rank 0 writes checkpoints."""
    dump = folder / 'dump_hook.py'
    dump.write_text("""
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from cotap_mm.registry import HOOKS

@HOOKS.register_module()
class DumpHook(Hook):
    def after_train(self, runner):
        state = dict(runner.model.module.named_parameters())
        torch.save({k: v.detach() for k, v in state.items()}, f'rank{get_rank()}.pth')
""")
    config = (
        (folder / 'tiny.py')
        .read_text()
        .replace(
            "dict(type='ScheduleLengthHook')",
            "dict(type='ScheduleLengthHook'), dict(type='DumpHook')",
        )
    )
    (folder / 'tiny.py').write_text(config + "\ncustom_imports = dict(imports=['dump_hook'])\n")
    launch(folder, warm_python)
    first, second = (torch.load(folder / f'rank{rank}.pth', weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.isfinite(value).all(), name
    assert all(np.isfinite(line['loss']) for line in logged(folder))


@pytest.mark.dist
@pytest.mark.slow
def test_weights_are_sharded_by_an_option(folder, warm_python):
    """As docs/multi_gpu.md shows it, with a config that has no strategy, and resumed without."""
    sharded = 'strategy.type=cotap_mm.CoTAPFSDPStrategy'
    text = launch(folder, warm_python, '--cfg-options', sharded, 'train_cfg.max_iters=2')
    assert 'training is complete: ' in text and 'CoTAPFSDPStrategy' in text
    launch(folder, warm_python, '--resume', '--cfg-options', 'train_cfg.max_iters=3')
    first, last = (
        torch.load(folder / 'run' / f'iter_{step}.pth', weights_only=False) for step in (2, 3)
    )
    assert last['state_dict'].keys() == first['state_dict'].keys()
    for name, value in first['state_dict'].items():
        assert last['state_dict'][name].shape == value.shape, name
    assert len(logged(folder)) >= 3 and all(np.isfinite(line['loss']) for line in logged(folder))


@pytest.mark.slow
def test_another_network_is_not_resumed(folder):
    """The optimizer would continue with the moments of other shapes."""
    train(folder, '--cfg-options', 'train_cfg.max_iters=2')
    message = r'head\.patch\.\S+ has shape .* from these weights with --init'
    with pytest.raises(SystemExit, match=message):
        train(folder, '--resume', '--cfg-options', 'model.head.patch.num_clusters=7')
    assert (folder / 'run' / 'iter_2.pth').is_file()
