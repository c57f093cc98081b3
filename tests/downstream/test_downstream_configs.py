"""All downstream configs load, build at full size, and read their data."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, PARAM_SCHEDULERS, DefaultScope
from mmengine.utils import import_modules_from_strings

from cotap_mm.models import CoTAPViT
from cotap_mm.registry import TRANSFORMS
from tests.helpers.fake_data import write_for

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'downstream').glob('*.py'))
MODERN = [
    'dinov2r_vits14',
    'dinov2r_vitb14',
    'dinov3_vits16',
    'dinov3_vitb16',
    'dinov3_vitl16',
]
WANTED = [
    'ade20k_upernet',
    'ade20k_upernet_vits',
    'voc_upernet',
    'cityscapes_upernet',
    'cocostuff164k_upernet',
    'voc_linear',
    'ade20k_linear',
    'cocostuff27_linear',
    'cityscapes_linear',
    'voc_fcn',
    'ade20k_fcn',
    'cocostuff27_fcn',
    'coco_mask-rcnn',
    'coco_mask-rcnn_vitdet',
    'coco_cascade-mask-rcnn',
    'voc_faster-rcnn',
    'imagenet_linear',
    'imagenet_finetune',
    'custom_upernet',
    'custom_mask-rcnn',
    'camvid_upernet',
    'camvid_linear',
    'raccoon_mask-rcnn',
    *(f'ade20k_upernet_{name}' for name in MODERN),
    *(f'coco_mask-rcnn_{name}' for name in MODERN),
]


def load(path, monkeypatch):
    for name in ('COTAP_CHECKPOINT', 'DATA_ROOT', 'CAMVID', 'RACCOON'):
        monkeypatch.delenv(name, raising=False)
    return Config.fromfile(path)


def build_on_meta(config):
    """Build the full-size model on the meta device, which needs no memory or time."""
    with DefaultScope.overwrite_default_scope(config.default_scope), torch.device('meta'):
        return MODELS.build(config.model)


def test_all_configs_exist():
    assert sorted(WANTED) == sorted(path.stem for path in CONFIGS)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
@pytest.mark.smoke
def test_model_builds_and_its_parts_fit(path, monkeypatch):
    config = load(path, monkeypatch)
    model = build_on_meta(config)
    assert isinstance(model.backbone, CoTAPViT) and model.backbone.neck is not None
    assert config.model.backbone.init_cfg.type == 'cotap_mm.PretrainedViT'
    images = torch.empty(1, 3, 256, 320, device='meta')
    model.eval()
    features = model.extract_feat(images)
    if config.default_scope == 'mmseg':
        logits = model.decode_head(features)
        classes = model.decode_head.num_classes
        assert logits.shape[:2] == (1, classes)
    elif config.default_scope == 'mmdet':
        strides = [stride[0] for stride in model.rpn_head.prior_generator.strides]
        assert [256 // level.shape[2] for level in features] == strides
        model.rpn_head(features)
        assert list(strides[:4]) == list(
            model.roi_head.bbox_roi_extractor[0].featmap_strides
            if isinstance(model.roi_head.bbox_roi_extractor, torch.nn.ModuleList)
            else model.roi_head.bbox_roi_extractor.featmap_strides
        )
    else:
        assert model.head(features).shape == (1, 1000)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_data_are_read(path, monkeypatch, tmp_path):
    """Only the files are fake; data sets, pipelines and metrics come from the config."""
    config = load(path, monkeypatch)
    write_for(path.stem, tmp_path)
    monkeypatch.chdir(tmp_path)
    import_modules_from_strings(**config.get('custom_imports', dict(imports=[])))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        parts = [
            DATASETS.build(config[f'{split}_dataloader'].dataset)
            for split in ('train', 'val', 'test')
        ]
        for split in ('val', 'test'):
            METRICS.build(config[f'{split}_evaluator'])
    for part in parts:
        sample = part[0]
        assert sample['inputs'].shape[0] == 3 and sample['data_samples'] is not None
    classes = parts[0].metainfo['classes']
    head = {
        'mmseg': lambda m: m.decode_head,
        'mmpretrain': lambda m: m.head,
        'mmdet': lambda m: m.roi_head.bbox_head,
    }[config.default_scope](config.model)
    heads = head if isinstance(head, list) else [head]
    assert all(part.num_classes == len(classes) for part in heads)
    if config.default_scope == 'mmseg':
        sample = parts[0][0]
        labels = sample['data_samples'].gt_sem_seg.data
        assert labels.shape[1:] == sample['inputs'].shape[1:]
        assert set(labels.unique().tolist()) <= {*range(len(classes)), 255}


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_first_lines_describe_the_config(path, monkeypatch):
    """GPUs x images and the schedule in the first lines match the config."""
    config = load(path, monkeypatch)
    first = ' '.join(line[2:] for line in path.read_text().splitlines() if line.startswith('# '))
    gpus, images = map(int, re.search(r'(\d+) (?:GPUs?|CPU) x (\d+) images?', first).groups())
    assert config.train_dataloader.batch_size == images
    iterations = re.search(r'(\d+)(k?) iterations', first)
    samples = re.search(r'(\d+)k samples', first)
    epochs = re.search(r'(\d+) epochs?', first)
    if iterations:
        count = int(iterations[1]) * (1000 if iterations[2] else 1)
        assert config.train_cfg.max_iters == count
    elif samples:
        total = config.train_cfg.max_iters * gpus * images
        assert 0 <= total - 1000 * int(samples[1]) < gpus * images
    else:
        repeats = config.train_dataloader.dataset.get('times', 1)
        repeats = 1 if 'passes' in first else repeats
        assert config.train_cfg.max_epochs * repeats == int(epochs[1])


@pytest.mark.slow
def test_numbers_of_the_recipes(monkeypatch):
    """iBOT's recipes for UPerNet and Cascade Mask R-CNN; the paper's frozen recipes."""
    upernet = load(ROOT / 'configs/downstream/ade20k_upernet.py', monkeypatch)
    assert upernet.optim_wrapper.optimizer.lr == 8e-5
    assert upernet.optim_wrapper.optimizer.weight_decay == 0.05
    assert upernet.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.65
    assert upernet.param_scheduler[0].end == 1500 and upernet.param_scheduler[1].power == 1.0
    assert upernet.model.test_cfg.stride == (341, 341)
    assert upernet.model.backbone.drop_path_rate == 0.1
    assert upernet.model.decode_head.channels == 768
    assert upernet.model.auxiliary_head.loss_decode.loss_weight == 0.4
    small = load(ROOT / 'configs/downstream/ade20k_upernet_vits.py', monkeypatch)
    assert small.optim_wrapper.optimizer.lr == 3e-5
    assert small.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.9
    cascade = load(ROOT / 'configs/downstream/coco_cascade-mask-rcnn.py', monkeypatch)
    assert cascade.optim_wrapper.optimizer.lr == 1e-4
    assert cascade.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.75
    assert cascade.param_scheduler[1].milestones == [8, 11]
    assert cascade.optim_wrapper.optimizer.weight_decay == 0.05
    assert cascade.model.backbone.drop_path_rate == 0.2 and cascade.model.backbone.with_cp
    for head in cascade.model.roi_head.bbox_head:
        assert (head.num_shared_convs, head.num_shared_fcs, head.norm_cfg.type) == (4, 1, 'SyncBN')
        assert head.reg_decoded_bbox and not head.reg_class_agnostic
        assert head.loss_bbox == dict(type='GIoULoss', loss_weight=10.0)
    flip, choice = cascade.train_dataloader.dataset.pipeline[2:4]
    assert flip.prob == 0.5
    assert sorted(short for short, _ in choice.transforms[0][0].scales)[::10] == [480, 800]
    probe = load(ROOT / 'configs/downstream/imagenet_linear.py', monkeypatch)
    assert probe.optim_wrapper.optimizer == dict(type='Adam', lr=1e-3)
    assert not any('Random' in step.type for step in probe.train_dataloader.dataset.pipeline)
    for name, lr, train, test in (
        ('voc_linear', 3e-3, 336, 448),
        ('ade20k_linear', 3e-3, 336, 448),
        ('cocostuff27_linear', 3e-3, 336, 448),
        ('cityscapes_linear', 1e-3, 896, 1024),
        ('voc_fcn', 3e-3, 336, 336),
        ('ade20k_fcn', 3e-3, 336, 448),
        ('cocostuff27_fcn', 3e-3, 336, 448),
    ):
        config = load(ROOT / f'configs/downstream/{name}.py', monkeypatch)
        assert config.optim_wrapper.optimizer == dict(type='Adam', lr=lr)
        dataset = config.train_dataloader.dataset
        pipeline = dataset.datasets[0].pipeline if 'datasets' in dataset else dataset.pipeline
        assert pipeline[2].scale == train
        crop = TRANSFORMS.build(pipeline[2])
        assert crop.area == [0.64, 1.0] and pipeline[3].prob == 0.5
        if name.endswith('fcn'):
            assert config.model.decode_head.hidden_channels == (512, 384, 256)
            assert config.model.decode_head.dropout_ratio == 0.1
        assert config.test_dataloader.dataset.pipeline[1].scale == (test, test)
        assert config.val_dataloader.dataset.pipeline[1].scale == (test, test)
        assert config.model.backbone.frozen_stages == 12
        assert [s.eta_min for s in config.param_scheduler] == ([1e-4] if 'fcn' in name else [])


def rates(config, points, epoch):
    """Ratio of learning rate to base rate at some iterations, from the config's schedulers."""
    base = config.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    optimizer._opt_called = True  # no training here
    length = config.train_cfg.get('max_iters') or config.train_cfg.max_epochs * epoch
    schedulers = []
    for part in config.param_scheduler:
        options = {key: value for key, value in part.items() if key not in ('type', '_scope_')}
        options.setdefault('end', config.train_cfg.max_epochs if part.by_epoch else length)
        kind = PARAM_SCHEDULERS.get(part.type)
        make = (
            partial(kind.build_iter_from_epoch, epoch_length=epoch)
            if options.pop('convert_to_iter_based', False)
            else kind
        )
        schedulers.append(make(optimizer, **options))
    found = {}
    for step in range(length):
        if step in points or step == length - 1:
            found[step if step in points else 'last'] = optimizer.param_groups[0]['lr'] / base
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch == 0:
                scheduler.step()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, epoch, wanted',
    [
        ('ade20k_upernet', None, {0: 1e-6, 1500: 1.0, 80750: 0.5, 'last': 0.0}),
        ('voc_upernet', None, {1500: 1.0, 20750: 0.5, 'last': 0.0}),
        ('voc_linear', None, {0: 1.0, 'last': 1.0}),
        ('ade20k_fcn', None, {0: 1.0, 'last': 1 / 30}),
        (
            'coco_cascade-mask-rcnn',
            7330,
            {0: 1e-3, 500: 1.0, 8 * 7330 - 1: 1.0, 8 * 7330: 0.1, 11 * 7330: 0.01, 'last': 0.01},
        ),
        ('imagenet_finetune', 1252, {0: 1e-4, 5 * 1252: 1.0, 'last': 5e-4}),
    ],
)
def test_learning_rates_over_the_whole_run(name, epoch, wanted, monkeypatch):
    config = load(ROOT / f'configs/downstream/{name}.py', monkeypatch)
    found = rates(config, wanted, epoch)
    assert found == pytest.approx(wanted, rel=1e-2, abs=2e-5)
