"""Load and build every pre-training config; run one step of the full-size ViT-B."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from cotap_mm.registry import HOOKS, MODELS

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs' / 'cotap').glob('*.py')
    if 'renamed = ' not in path.read_text()
)
#: Named keys of ``default_hooks``: a leaf changes one without dropping the others.
HOOK_NAMES = {'checkpoint', 'non_finite', 'teacher', 'monitor', 'schedule_length', 'preemption'}


def load(path):
    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    config.model.pop('init_cfg', None)  # no download in a test
    return config


def shrink(config):
    """Shrink a config to toy size; every class that it names must still build."""
    config.model.backbone.update(
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    )
    for head in config.model.head.values():
        head.update(num_clusters=8, hidden_channels=8, out_channels=4)
    for queue in ('patch_queue', 'cls_queue'):
        config.model.memory[queue].update(size=32)
    return config


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path):
    config = shrink(load(path))
    model = MODELS.build(config.model)
    build_optim_wrapper(model, config.optim_wrapper)
    for hook in [*config.default_hooks.values(), *config.get('custom_hooks', [])]:
        if 'data/camvid' not in str(hook):  # labeled images, which may not exist here
            HOOKS.build(hook)
    assert set(config.default_hooks) >= HOOK_NAMES
    assert None not in config.default_hooks.values()
    assert config.train_cfg.max_iters > 0
    assert config.train_dataloader.dataset.type.endswith('NeighborPairs')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_first_line_matches_the_config(path):
    """The first line states the GPUs x images and iterations of the config."""
    config, first = load(path), path.read_text().splitlines()[0]
    stated = re.search(r'(\d+) GPUs x (\d+) images, (\d+)k iterations', first)
    if stated is None:
        assert 'GPU' not in first or '8 GB' in first
        return
    gpus, images, kilo = map(int, stated.groups())
    assert config.train_dataloader.batch_size == images
    assert config.auto_scale_lr.base_batch_size == gpus * images
    assert config.train_cfg.max_iters == 1000 * kilo
    assert ('coco-in1k' in path.stem) == ('ImageNet' in first)
    width = MODELS.build(config.model.backbone).embed_dims
    assert width == {'vits': 384, 'vitb': 768, 'vitl': 1024}[path.stem[:4]]


def test_hyperparameters_of_the_paper():
    """Hyperparameters as stated in https://arxiv.org/abs/2509.09429."""
    config = load(ROOT / 'configs' / 'cotap' / 'vits_coco-in1k.py')
    assert config.optim_wrapper.optimizer.lr == 3e-5
    assert config.optim_wrapper.paramwise_cfg.head_lr_mult == 10
    assert config.optim_wrapper.optimizer.weight_decay == 0.024
    assert [s.eta_min for s in config.param_scheduler] == [3e-6, 0.24]
    assert config.model.head.patch.num_clusters == 512
    assert config.model.head.cls.num_clusters == 4096
    assert config.model.neck.num_prototypes == 64
    memory = config.model.memory
    assert (memory.patch_queue.size, memory.cls_queue.size) == (262144, 32768)
    assert (memory.patch_queue.temperature, memory.cls_queue.temperature) == (0.05, 0.07)
    assert memory.template_bank.size == 1024
    teacher = config.default_hooks.teacher
    assert (teacher.start, teacher.end) == (0.9997, 0.9999)


@pytest.mark.slow
def test_full_size_vit_b_trains_a_step():
    config = load(ROOT / 'configs' / 'cotap' / 'vitb_coco.py')
    model = MODELS.build(config.model)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)

    def branch():
        corner = torch.tensor([0.0, 0.0, 300.0, 300.0])
        return dict(
            global_crops=torch.randint(0, 256, (1, 2, 2, 224, 224, 3), dtype=torch.uint8),
            local_crops=torch.randint(0, 256, (1, 2, 4, 96, 96, 3), dtype=torch.uint8),
            boxes=corner.expand(1, 2, 6, 4).clone(),
        )

    batch = dict(patch=branch(), cls=branch())
    logs = model.train_step(batch, optim_wrapper=optim_wrapper)
    assert torch.isfinite(logs['loss'])
    assert logs['loss_prototype_entropy'] > 0


@pytest.mark.parametrize(
    'key, value, seen',
    [
        (
            'default_hooks.compile.type',
            'CompileHook',
            lambda config, model: HOOKS.build(config.default_hooks.compile),
        ),
        ('model.backbone.with_cp', True, lambda config, model: model.backbone.with_cp),
        ('model.backbone.with_cp', 'mlp', lambda config, model: model.backbone.with_cp == 'mlp'),
        (
            'model.backbone.fused_attention',
            False,
            lambda config, model: (
                'pyimpl' in str(model.backbone.layers[0].attn.scaled_dot_product_attention)
            ),
        ),
        ('model.backbone.channels_last', True, lambda config, model: model.backbone.channels_last),
        (
            'model.losses.patch_ranking.method',
            'sorted',
            lambda config, model: model.losses['patch_ranking'].method == 'sorted',
        ),
        ('model.pairs.topk', None, lambda config, model: model.pairs.topk is None),
        (
            'optim_wrapper.dtype',
            'bfloat16',
            lambda config, model: (
                build_optim_wrapper(model, config.optim_wrapper).cast_dtype == torch.bfloat16
            ),
        ),
    ],
)
def test_keys_for_speed(key, value, seen):
    assert (
        f'`{key}' in (ROOT / 'README.md').read_text()
        or f'{key}=' in (ROOT / 'README.md').read_text()
    )
    config = shrink(load(ROOT / 'configs/cotap/vits_coco.py'))
    config.merge_from_dict({key: value})
    assert seen(config, MODELS.build(config.model))
