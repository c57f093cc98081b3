"""Load and build every pre-training config; run one step of the full-size ViT-B."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from cotap_mm.models.modules import AssignmentQueue
from cotap_mm.registry import HOOKS, MODELS, TRANSFORMS, build
from cotap_mm.weights.zoo import architecture

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


@pytest.mark.slow
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


@pytest.mark.slow
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
    size = re.search(r'vit[sbl]', path.stem)[0]
    assert width == {'vits': 384, 'vitb': 768, 'vitl': 1024}[size]


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


def test_losses_pairs_and_memories_of_the_paper():
    """What a shipped config builds, so that a changed default shows as well."""
    model = MODELS.build(shrink(load(ROOT / 'configs' / 'cotap' / 'vits_coco-in1k.py')).model)
    ranking = model.losses['patch_ranking']
    assert (ranking.tau, ranking.threshold, ranking.negative_weight) == (0.5, -0.2, 0.1)
    names = ('patch_cluster', 'cls_cluster', 'cls_neighbor', 'prototype_entropy')
    assert [model.losses[name].temperature for name in names] == [0.1, 0.1, 0.2, 0.1]
    assert not set(model.losses.weights.values()) - {1}
    assert model.losses['patch_cluster'].roi_size == 6
    assert model.losses['patch_cluster'].foreground_threshold == 1 - 1e-4
    pairs = model.pairs
    assert (pairs.pool_sizes, pairs.topk, pairs.num_negatives) == ((7, 14), 5, 5)
    memories = (model.patch_queue, model.cls_queue, model.template_bank)
    assert [memory.per_step for memory in memories] == [2048, 100, 32]
    assert model.patch_queue.num_iters == model.cls_queue.num_iters == 3


def test_a_step_adds_no_more_than_the_paper_to_the_queues():
    memory = load(ROOT / 'configs' / 'cotap' / 'vits_coco-in1k.py').model.memory
    for options, most in ((memory.patch_queue, 2048), (memory.cls_queue, 100)):
        queue = AssignmentQueue(**{**options, 'size': 4096}, num_clusters=2)
        queue.remember(torch.rand(3000, 2), torch.randperm(3000))
        assert len(queue) == most


def test_head_widths_of_the_paper():
    head = load(ROOT / 'configs' / 'cotap' / 'vits_coco-in1k.py').model.head
    for options, clusters in ((head.patch, 512), (head.cls, 4096)):
        with torch.device('meta'):
            built = MODELS.build(dict(options, in_channels=768))
        shapes = [tuple(layer.weight.shape) for layer in built.mlp if hasattr(layer, 'weight')]
        assert shapes == [(2048, 768), (2048, 2048), (256, 2048)]
        assert built.centers.shape == (clusters, 256)


@pytest.mark.parametrize('name', ['vits_coco', 'vitb_coco-in1k', 'vitb8_coco-in1k', 'vits_folder'])
def test_crops_of_the_paper(name):
    config = load(ROOT / 'configs' / 'cotap' / f'{name}.py')
    dataset = config.train_dataloader.dataset
    crop = build(TRANSFORMS, dataset.crops, type='MultiCrop')
    assert (crop.num_global, crop.global_size, crop.global_scale) == (2, 224, (0.25, 1))
    assert (crop.num_local, crop.local_size, crop.local_scale) == (4, 96, (0.05, 0.1))
    assert (crop.min_overlap, crop.max_draws) == ((0.02, 0.01), 50)
    assert dataset.num_neighbors == 7
    assert config.model.backbone.img_size == 224  # also of the images of the neighbor search


#: Names in the paths of initial weights -> width and patch size of the network.
INIT_SHAPES = {
    'dino_deitsmall16_pretrain.pth': (384, 16),
    'dino_vitbase16_pretrain.pth': (768, 16),
    'dino_vitbase8_pretrain.pth': (768, 8),
    'ibot/vitl_16/checkpoint_teacher.pth': (1024, 16),
    'cotap_mm://toy_vit.pth': (96, 8),
    'dinov2_vits14_reg4_pretrain.pth': (384, 14),
    'dinov2_vitb14_reg4_pretrain.pth': (768, 14),
    'timm:vit_small_patch16_dinov3.lvd1689m': (384, 16),
    'timm:vit_base_patch16_dinov3.lvd1689m': (768, 16),
    'timm:vit_large_patch16_dinov3.lvd1689m': (1024, 16),
}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_initial_weights_fit_the_backbone(path):
    model = Config.fromfile(path).model
    if model.init_cfg is None:
        assert path.stem == 'toy_init'
        return
    (shape,) = [INIT_SHAPES[end] for end in INIT_SHAPES if model.init_cfg.checkpoint.endswith(end)]
    with torch.device('meta'):
        backbone = MODELS.build(dict(model.backbone, type='cotap_mm.DINOViT'))
    assert (backbone.embed_dims, backbone.patch_size) == shape
    kernel = backbone.patch_embed.projection.weight.shape
    assert tuple(kernel[2:]) == (shape[1], shape[1])
    assert ('vitb8' in path.stem) == (shape == (768, 8))
    if 'dinov' in path.stem:
        same = architecture(model.backbone.arch)
        assert backbone.num_registers == same['num_registers'] == 4
        assert (backbone.rope is None) == ('dinov2' in path.stem)
        assert 'gamma1.weight' in ' '.join(backbone.state_dict())


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
    page = (ROOT / 'docs' / 'performance.md').read_text()
    assert f'`{key}' in page or f'{key}=' in page
    config = shrink(load(ROOT / 'configs/cotap/vits_coco.py'))
    config.merge_from_dict({key: value})
    assert seen(config, MODELS.build(config.model))
