"""Train, validate, save, resume and test downstream configs at toy size with our tools."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope
from torch.utils.data import get_worker_info

from cotap_mm.datasets.wrapped import inner_datasets
from cotap_mm.models import CoTAPViT
from cotap_mm.registry import MODELS, build
from tests.helpers.fake_data import write_for
from tests.helpers.faults import time_limit
from tests.helpers.tool_loading import forget_runs, load_tool

ROOT = Path(__file__).resolve().parents[2]
VIT = dict(
    type='cotap_mm.CoTAPViT',
    patch_size=8,
    img_size=32,
    num_prototypes=2,
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
)
PYRAMID = [
    dict(
        type='mmseg.Feature2Pyramid',
        embed_dim=16,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=dict(type='BN'),
    ),
    dict(type='FPN', in_channels=[16, 16, 16, 32], out_channels=8, num_outs=5),
]


def tool(name):
    """The tool's main function, which first resets the state of MMEngine in this process."""
    forget_runs()
    return load_tool(name).main


def shrink_transforms(part):
    """Set the image size in all pipelines, which may be nested."""
    sizes = dict(
        RandomResize=dict(scale=(64, 48)),
        Resize=dict(scale=(64, 48)),
        RandomCrop=dict(crop_size=(32, 32)),
        RandomChoiceResize=dict(scales=[(48, 64)]),
    )
    sizes['cotap_mm.RandomResizedCropSeg'] = dict(scale=32)
    if isinstance(part, (list, tuple)):
        for value in part:
            shrink_transforms(value)
    elif isinstance(part, dict):
        part.update(sizes.get(part.get('type'), {}))
        for value in part.values():
            shrink_transforms(value)


def shrink_heads(part, width=8):
    """Set the channels of all heads."""
    if isinstance(part, (list, tuple)):
        for value in part:
            shrink_heads(value)
    elif isinstance(part, dict):
        for name in ('feat_channels', 'fc_out_channels', 'conv_out_channels'):
            if name in part:
                part[name] = width
        for name in ('in_channels', 'out_channels'):
            if part.get(name) == 256:
                part[name] = width
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'
        for value in part.values():
            shrink_heads(value)


def shrink(config):
    """Shrink a run to seconds on a CPU; keep losses, optimizer and data sets."""
    backbone = {**config.model.backbone, **VIT}
    if len(backbone.get('out_indices', ())) == 4:
        backbone['out_indices'] = (0, 1, 2, 3)
    backbone['frozen_stages'] = 4 if backbone.get('frozen_stages') == 12 else -1
    config.model.backbone = backbone
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=min(loader.batch_size, 2))
        shrink_transforms(loader.dataset)
    if config.default_scope == 'mmseg':
        config.model.data_preprocessor.size = (32, 32)
        head = config.model.decode_head
        if head.type == 'UPerHead':
            config.model.neck.embed_dim = 16
            head.update(in_channels=[16, 16, 16, 32], channels=8)
            config.model.auxiliary_head.update(in_channels=16, channels=8)
            config.model.test_cfg.update(crop_size=(32, 32), stride=(16, 16))
        else:
            head.update(in_channels=32)
            head.update(dict(channels=32) if 'channels' in head else {})
        config.train_cfg.update(max_iters=2, val_interval=2)
        config.default_hooks.checkpoint.interval = 2
    elif config.default_scope == 'mmdet':
        config.model.neck = PYRAMID
        shrink_heads(config.model)
        config.model.test_cfg.rcnn.score_thr = 0.0  # scores of an untrained network are low
        config.train_cfg.update(max_epochs=1)
    else:
        config.model.head.in_channels = 32
        config.train_cfg.update(max_epochs=1)
    config.param_scheduler = []  # the warm-up is longer than this run
    config.default_hooks.logger.interval = 1
    return config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Prepare a config at toy size, with its data and initial weights."""

    def prepare(name):
        monkeypatch.chdir(tmp_path)
        write_for(name, tmp_path)
        config = shrink(Config.fromfile(ROOT / 'configs' / 'downstream' / f'{name}.py'))
        config.dump(tmp_path / f'{name}.py')
        torch.manual_seed(0)
        vit = build(MODELS, VIT)
        vit.init_weights()
        torch.save(dict(state_dict=vit.state_dict()), tmp_path / 'init.pth')
        return tmp_path / f'{name}.py', vit.state_dict()

    yield prepare
    DefaultScope._instance_dict.clear()  # set by the tools for the whole process


def metrics(folder, name, index=-1):
    """Logged value of a metric, by default the last one."""
    records = sorted(folder.glob('*/vis_data/scalars.json')) or sorted(folder.glob('*/*.json'))
    # After a test on several ranks, each of them has written the same values into one file.
    first = json.JSONDecoder().raw_decode
    lines = [first(line)[0] for record in records for line in record.read_text().splitlines()]
    found = [line[name] for line in lines if name in line]
    assert found, f'no {name} in {records}'
    return found[index]


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, unit, metric',
    [
        ('ade20k_upernet', 'iter', 'mIoU'),
        ('voc_linear', 'iter', 'mIoU'),
        ('ade20k_fcn', 'iter', 'mIoU'),
        ('cocostuff27_linear', 'iter', 'mIoU'),
        ('coco_mask-rcnn', 'epoch', 'coco/bbox_mAP'),
        ('coco_cascade-mask-rcnn', 'epoch', 'coco/segm_mAP'),
        ('imagenet_linear', 'epoch', 'accuracy/top1'),
    ],
)
def test_train_validate_save_resume_test(run, tmp_path, name, unit, metric):
    config, start = run(name)
    last = 2 if unit == 'iter' else 1
    work_dir = tmp_path / 'run'
    arguments = [str(config), '--work-dir', str(work_dir), '--seed', '0']
    tool('train')([*arguments, '--init', str(tmp_path / 'init.pth')])
    first = torch.load(work_dir / f'{unit}_{last}.pth', weights_only=True)
    log = next(work_dir.glob('*/*.log')).read_text()
    assert f'{tmp_path / "init.pth"}: ' in log and "names of 'cotap_mm'" in log
    moved = [
        key
        for key, value in start.items()
        if not torch.equal(first['state_dict']['backbone.' + key], value)
    ]
    assert bool(moved) == (Config.fromfile(config).model.backbone.frozen_stages < 0)
    validated = metrics(work_dir, metric)

    # Resuming needs no initial weights, and continues the iteration count.
    (tmp_path / 'init.pth').unlink()
    more = f'train_cfg.max_{unit}s={2 * last}'
    tool('train')(
        [*arguments, '--init', str(tmp_path / 'init.pth'), '--resume', '--cfg-options', more]
    )
    second = torch.load(work_dir / f'{unit}_{2 * last}.pth', weights_only=True)
    assert second['meta'][unit] == 2 * last
    assert 'resumed' in sorted(work_dir.glob('*/*.log'))[-1].read_text()

    tool('test')(
        [str(config), str(work_dir / f'{unit}_{last}.pth'), '--work-dir', str(tmp_path / 'tested')]
    )
    assert metrics(tmp_path / 'tested', metric) == pytest.approx(validated, abs=0.02)


@pytest.mark.dist
def test_two_processes(run, tmp_path, warm_python):
    """DDP waits for each trainable parameter, so all of them must get a gradient."""
    config, _ = run('ade20k_upernet')
    config.write_text(config.read_text().replace("type='BN'", "type='SyncBN'"))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            'bash',
            str(ROOT / 'tools' / 'dist_train.sh'),
            str(config),
            '2',
            '--init',
            str(tmp_path / 'init.pth'),
            '--work-dir',
            str(tmp_path / 'run'),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PORT': str(port), 'PYTHON': warm_python, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'SyncBN needs GPUs' in done.stdout + done.stderr
    assert (tmp_path / 'run' / 'iter_2.pth').is_file()


@pytest.mark.slow
def test_wrong_usage_is_reported(run, tmp_path):
    config, _ = run('voc_linear')
    with pytest.raises(SystemExit, match='checkpoint nowhere.pth is not a file'):
        tool('train')([str(config), '--init', 'nowhere.pth'])
    with pytest.raises(SystemExit, match='are for pre-training, but .* is for mmseg'):
        tool('train')([str(config), '--images', str(tmp_path)])
    with pytest.raises(SystemExit, match='--auto-scale-lr: .* add auto_scale_lr='):
        tool('train')([str(config), '--auto-scale-lr'])
    with pytest.raises(SystemExit, match='checkpoint nowhere.pth is not a file'):
        tool('test')([str(config), 'nowhere.pth'])
    with pytest.raises(SystemExit, match='is for pre-training and has no test'):
        tool('test')(['demo', 'nowhere.pth'])


@pytest.mark.slow
def test_weights_of_another_width_abort_before_training(run, tmp_path):
    config, _ = run('voc_linear')
    wide = CoTAPViT(
        **{
            **{key: value for key, value in VIT.items() if key != 'type'},
            'arch': dict(VIT['arch'], embed_dims=32),
        }
    )
    torch.save(dict(state_dict=wide.state_dict()), tmp_path / 'wide.pth')
    with pytest.raises(
        SystemExit,
        match=r'does not fit .* a ViT of width 32, .* Set the size of '
        r'the backbone .*embed_dims=32',
    ):
        tool('train')(
            [str(config), '--init', str(tmp_path / 'wide.pth'), '--work-dir', str(tmp_path / 'run')]
        )
    assert not list((tmp_path / 'run').glob('*.pth'))


@TRANSFORMS.register_module(force=True)
class StopsItsWorker:
    """Pipeline step that stops its worker."""

    def __call__(self, results):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGSTOP)
        return results


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks workers')
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_hanging_worker_aborts_the_run(run, tmp_path, monkeypatch, split):
    path, _ = run('voc_linear')
    arguments = [str(path), '--work-dir', str(tmp_path / 'run')]
    if split == 'test':
        tool('train')([*arguments, '--init', str(tmp_path / 'init.pth')])
        arguments.insert(1, str(tmp_path / 'run' / 'iter_2.pth'))
    else:
        arguments += ['--init', str(tmp_path / 'init.pth')]
    config = Config.fromfile(path)
    config[f'{split}_dataloader'].num_workers = 1
    for dataset in inner_datasets(config[f'{split}_dataloader'].dataset):
        dataset.pipeline.insert(0, dict(type='StopsItsWorker'))
    config.dump(path)
    monkeypatch.setenv('COTAP_DIST_TIMEOUT', '6')
    monkeypatch.setattr('cotap_mm.distributed.timeouts._MIN_SILENCE', 0)
    monkeypatch.setattr('torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL', 1.0)
    others = set(multiprocessing.active_children())
    with (
        time_limit(60),
        pytest.raises(
            SystemExit,
            match=(
                '^error: (a worker of the data loader hangs .DataLoader timed out after|'
                'no worker of the data loader has made progress for)'
            ),
        ),
    ):
        tool('test' if split == 'test' else 'train')(arguments)
    assert set(multiprocessing.active_children()) <= others
