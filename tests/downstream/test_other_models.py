"""Run ``tools/train.py`` with nested backbones, and in bfloat16 on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cotap_mm.registry import MODELS, build
from tests.downstream.test_training import (  # noqa: F401  (run is a fixture)
    PYRAMID,
    VIT,
    metrics,
    run,
    shrink_heads,
    tool,
)
from tests.helpers.fake_data import detection_folder

mmdet = pytest.importorskip('mmdet')
CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'


@pytest.fixture
def detection(tmp_path, monkeypatch, run):  # noqa: F811
    """Labeled and unlabeled images, and initial weights."""
    monkeypatch.chdir(tmp_path)
    detection_folder(tmp_path / 'data', 'raccoon', 2)
    content = json.loads((tmp_path / 'data/train.json').read_text())
    (tmp_path / 'data/rest.json').write_text(json.dumps(dict(content, annotations=[])))
    torch.manual_seed(0)
    vit = build(MODELS, VIT)
    vit.init_weights()
    torch.save(dict(state_dict=vit.state_dict()), tmp_path / 'init.pth')
    return tmp_path


def shrink_detector(model):
    model.backbone = dict(VIT, out_indices=(0, 1, 2, 3))
    model.neck = PYRAMID
    shrink_heads(model)


def small(part):
    """Toy images in all pipelines."""
    if isinstance(part, (list, tuple)):
        for value in part:
            small(value)
    elif isinstance(part, dict):
        if part.get('type') in ('Resize', 'RandomResize'):
            part['scale'] = (64, 48) if part['type'] == 'Resize' else [(64, 48), (64, 48)]
        for value in part.values():
            small(value)


def use_data(config, *files):
    """Train on JSON files in the folder, and validate on one of them."""
    train = config.train_dataloader.dataset
    parts = [
        *zip(train.get('datasets', [train]), files),
        (config.val_dataloader.dataset, 'val.json'),
    ]
    for dataset, file in parts:
        dataset.update(
            data_root='data',
            ann_file=file,
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('raccoon',)),
        )
    parts[0][0].filter_cfg.min_size = 1
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        small(loader)
    config.train_dataloader.batch_size = 2
    config.val_evaluator.ann_file = 'data/val.json'
    config.update(
        test_dataloader=config.val_dataloader,
        test_evaluator=config.val_evaluator,
        param_scheduler=[],
    )
    config.custom_imports = dict(imports=['cotap_mm'], allow_failed_imports=False)
    config.default_hooks.logger.interval = 1
    config.dump('config.py')


@pytest.mark.slow
def test_semi_supervised_detector(detection):
    config = Config.fromfile(
        CONFIGS / 'soft_teacher' / ('soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    )
    shrink_detector(config.model.detector)
    config.model.detector.roi_head.bbox_head.num_classes = 1
    config.train_dataloader.sampler.update(batch_size=2, source_ratio=[1, 1])
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1)
    config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False)
    use_data(config, 'train.json', 'rest.json')
    tool('train')(['config.py', '--init', 'init.pth', '--work-dir', 'run', '--seed', '0'])
    log = next((detection / 'run').glob('*/*.log')).read_text()
    assert (
        log.count("init.pth: network with names of 'cotap_mm': loaded") == 2
    )  # student and teacher
    tool('test')(['config.py', 'run/iter_1.pth', '--work-dir', 'tested'])
    assert metrics(detection / 'tested', 'coco/bbox_mAP') == pytest.approx(
        metrics(detection / 'run', 'teacher/coco/bbox_mAP'), abs=0.01
    )


@pytest.mark.slow
def test_distiller(detection):
    config = Config.fromfile(CONFIGS / 'ld/ld_r18-gflv1-r101_fpn_1x_coco.py')
    teacher = Config.fromfile(CONFIGS / 'gfl/gfl_r50_fpn_1x_coco.py')
    for part in (config.model, teacher.model):
        shrink_detector(part)
        part.bbox_head.update(
            num_classes=1, stacked_convs=1, norm_cfg=dict(type='GN', num_groups=2)
        )
    config.model.update(teacher_config=dict(model=teacher.model), teacher_ckpt=None)
    config.train_cfg.max_epochs = 1
    use_data(config, 'train.json')
    tool('train')(
        [
            'config.py',
            '--init',
            'init.pth',
            '--work-dir',
            'run',
            '--seed',
            '0',
            '--cfg-options',
            'val_dataloader=None',
            'val_cfg=None',
            'val_evaluator=None',
        ]
    )
    log = next((detection / 'run').glob('*/*.log')).read_text()
    assert log.count("init.pth: network with names of 'cotap_mm': loaded") == 1  # only the student
    assert (detection / 'run/epoch_1.pth').is_file()


@pytest.mark.slow
def test_mask_rcnn_in_bfloat16_on_a_cpu(run, tmp_path):  # noqa: F811
    config, _ = run('coco_mask-rcnn')
    tool('train')(
        [
            str(config),
            '--init',
            str(tmp_path / 'init.pth'),
            '--amp',
            '--work-dir',
            str(tmp_path / 'run'),
            '--cfg-options',
            'train_dataloader.dataset.indices=2',
            'val_dataloader.dataset.indices=1',
        ]
    )
    assert 0 < metrics(tmp_path / 'run', 'loss') < 100
    assert metrics(tmp_path / 'run', 'coco/segm_mAP') >= 0
