"""``--init FILE`` shapes the network, and a resumed run keeps the shape."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cotap_mm
from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine.adaptation import limit_training
from cotap_mm.engine.launch.config import set_init
from cotap_mm.engine.optim.param_groups import CoTAPOptimWrapperConstructor
from cotap_mm.engine.shape import request_shape, restore_shape, shape_by_init
from cotap_mm.export.provenance import provenance_of
from cotap_mm.models import CoTAPViT
from cotap_mm.ops.position import resize_patch_embedding
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import detect_checkpoint, load_pretrained
from cotap_mm.weights.reading import read_checkpoint
from tests.helpers.tiny import build_tiny, make_inputs
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import write_init, write_noise

SIZES = dict(embed_dims=64, num_layers=2, num_heads=1, feedforward_channels=64)
SMALL = [
    'train_cfg.max_iters=2',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.dataset.crops.local_size=32',
    'model.memory.patch_queue.size=64',
    'model.memory.cls_queue.size=32',
    *(
        f'model.head.{b}.{k}=16'
        for b in ('patch', 'cls')
        for k in ('hidden_channels', 'num_clusters')
    ),
]


def file_of(arch=SIZES, patch_size=16, img_size=224, **options):
    """Checkpoint content of a network with random weights, under timm's names."""
    torch.manual_seed(0)
    vit = CoTAPViT(arch=arch, patch_size=patch_size, img_size=img_size, use_filter=False, **options)
    vit.init_weights()
    architecture = dict(arch=arch)
    architecture.update(img_size=img_size, **options)
    state = {f'backbone.{name}': value for name, value in vit.state_dict().items()}
    return dict(state_dict=state, meta=dict(architecture=architecture))


def shaped(content, options=(), config='vits_folder'):
    config = load_config(config)
    values = [option.split('=') for option in options]
    config.merge_from_dict({key: int(value) for key, value in values})
    request_shape(config, [key for key, _ in values])
    shape_by_init(config, detect_checkpoint(content))
    return config


def test_everything_follows_from_a_file(log):
    content = file_of(
        dict(SIZES, ffn='swiglu'),
        patch_size=14,
        img_size=518,
        num_registers=4,
        layer_scale_init_value=1e-5,
        pos_resize='antialias',
    )
    config = shaped(content)
    backbone = config.model.backbone
    assert backbone.arch == dict(SIZES, ffn='swiglu')
    assert (backbone.patch_size, backbone.img_size, backbone.num_registers) == (14, 518, 4)
    assert backbone.pos_resize == 'antialias' and backbone.layer_scale_init_value == 1e-5
    crops = config.train_dataloader.dataset.crops
    assert (crops.global_size, crops.local_size) == (224, 98)
    assert tuple(config.model.pairs.pool_sizes) == (8, 16)  # half and all of the patch grid
    text = log.text
    for words in ('shaped like state dict', 'num_registers=4', 'local_size=98', "ffn': 'swiglu'"):
        assert words in text


def test_rotary_positions(log):
    config = shaped(file_of(dict(SIZES, norm_eps=1e-5), rope=dict(theta=100.0), num_registers=2))
    backbone = config.model.backbone
    assert backbone.rope == dict(theta=100.0) and backbone.arch.norm_eps == 1e-5
    assert 'img_size' not in re.findall(r'model\.backbone\.(\w+)', log.text)
    assert config.train_dataloader.dataset.crops.local_size == 96


def test_what_fits_is_not_changed(log):
    config = load_config('vits_folder')
    content = file_of('deit-small')
    before = config.pretty_text
    request_shape(config)
    assert shape_by_init(config, detect_checkpoint(content)) is None
    config.pop('shape_by_init')
    assert config.pretty_text == before and 'shaped' not in log.text


def test_the_init_of_a_config_does_not_shape_it():
    config = load_config('vits_folder')
    before = config.pretty_text
    shape_by_init(config, detect_checkpoint(file_of(num_registers=4)))
    assert config.pretty_text == before


def test_what_the_user_sets_stays():
    content = file_of(patch_size=14, img_size=518, num_registers=4)
    config = shaped(
        content,
        ['model.backbone.num_registers=4', 'train_dataloader.dataset.crops.local_size=112'],
    )
    assert config.train_dataloader.dataset.crops.local_size == 112
    assert config.model.backbone.num_registers == 4
    assert config.model.backbone.patch_size == 14


def test_the_number_of_heads_of_the_config_serves_other_widths(tmp_path):
    config = load_config('vits_folder')
    config.model.backbone.arch = dict(SIZES, embed_dims=16, num_heads=2, feedforward_channels=16)
    request_shape(config)
    detected = detect_checkpoint(str(write_init(tmp_path / 'init.pth')))
    shape_by_init(config, detected)
    assert config.model.backbone.arch.num_heads == 2 and config.model.backbone.patch_size == 8
    config.model.backbone.arch = 'deit-small'
    with pytest.raises(ValueError, match='number of attention heads of a ViT of width 16'):
        shape_by_init(config, detected)


def test_restored_from_the_checkpoint_only_if_it_was_shaped(tmp_path):
    config = shaped(file_of(patch_size=14, img_size=518, num_registers=4))
    for is_shaped in (True, False):
        if not is_shaped:
            config.pop('shape_by_init')
        content = dict(meta=dict(cfg=config.pretty_text))
        torch.save(content, tmp_path / 'iter_1.pth')
        other = load_config('vits_folder')
        other.load_from = str(tmp_path / 'iter_1.pth')
        restore_shape(other)
        assert (other.model.backbone.patch_size == 14) == is_shaped
        assert (other.train_dataloader.dataset.crops.local_size == 98) == is_shaped


def test_another_patch_size_on_request(log):
    config = load_config('vits_folder')
    set_init(config, 'init.pth', patch_size=14)
    request_shape(config, patch_size=14)
    detected = detect_checkpoint(file_of())
    shape_by_init(config, detected)
    assert config.model.backbone.patch_size == 14 and config.model.backbone.img_size == 224
    assert config.train_dataloader.dataset.crops.local_size == 98
    assert tuple(config.model.pairs.pool_sizes) == (8, 16)
    assert config.model.init_cfg.resize_patches and 'resize_patches_to' not in config
    backbone = dict(config.model.backbone, arch=SIZES)
    with pytest.raises(ValueError, match='1 shapes differ: backbone.patch_embed'):
        load_pretrained(build(MODELS, backbone), detected)
    report = load_pretrained(build(MODELS, backbone), detected, resize_patches=True)
    assert set(report.resized) == {
        'backbone.patch_embed.projection.weight',
        'backbone.pos_embed',
    }


@pytest.mark.parametrize('old, new', [(14, 16), (8, 16), (16, 14), (16, 16)])
def test_resized_patches_give_the_same_tokens(old, new):
    weight = torch.randn(5, 3, old, old)
    patch = torch.randn(7, 3, old, old, dtype=torch.double)
    resized = resize_patch_embedding(weight, new)
    larger = F.interpolate(patch, (new, new), mode='bicubic', antialias=new < old)
    wanted = torch.einsum('bcpq,dcpq->bd', patch, weight.double())
    got = torch.einsum('bcpq,dcpq->bd', larger, resized.double())
    if new >= old:
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    else:  # information is lost; a smooth patch keeps most of it
        smooth = F.interpolate(torch.randn(7, 3, 3, 3).double(), (old, old), mode='bicubic')
        larger = F.interpolate(smooth, (new, new), mode='bicubic', antialias=True)
        wanted = torch.einsum('bcpq,dcpq->bd', smooth, weight.double())
        got = torch.einsum('bcpq,dcpq->bd', larger, resized.double())
        assert (got - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize('count, frozen', [(0, 12), (3, 9), (12, -1)])
def test_only_the_last_blocks_are_trained(count, frozen):
    config = load_config('vits_folder')
    config.trainable_blocks = count
    limit_training(config)
    assert config.model.backbone.frozen_stages == frozen
    config.trainable_blocks = 13
    with pytest.raises(ValueError, match=r'--trainable-blocks must be in 0..12, got 13'):
        limit_training(config)


def test_frozen_blocks_need_no_gradients_and_no_optimizer_state():
    model = build_tiny(num_registers=1, frozen_stages=1)
    model.train()
    assert not model.backbone.layers[0].training and model.backbone.layers[1].training
    before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    constructor = CoTAPOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=0.1)))
    optimizer = constructor(model)
    losses = model.loss(make_inputs())
    optimizer.update_params(sum(value for name, value in losses.items() if 'loss' in name))
    changed = {
        name for name, value in model.backbone.named_parameters() if not before[name].equal(value)
    }
    assert changed and all(name.startswith('layers.1.') for name in changed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = sum(s['exp_avg'].numel() for s in optimizer.optimizer.state.values())
    assert state <= trained < sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('adapt', [(), ('--lora', '2')])
def test_train_and_resume_by_the_default_command(tmp_path, monkeypatch, log, adapt):
    """The README's command with the folder of a DINOv3, then --resume without --init."""
    transformers = pytest.importorskip('transformers')
    if not hasattr(transformers, 'DINOv3ViTModel'):
        pytest.skip('this version of transformers has no DINOv3')
    torch.manual_seed(0)
    size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=64)
    model = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**size, num_register_tokens=4, use_gated_mlp=True)
    )
    monkeypatch.chdir(tmp_path)
    model.save_pretrained('dinov3')
    rng = np.random.default_rng(0)
    for index in range(4):
        write_noise(tmp_path / 'photos' / f'{index}.png', rng, (64, 64))
    train = load_tool('train').main
    words = ['vits_folder', '--images', 'photos', '--cfg-options', *SMALL]
    options = ['train_dataloader.dataset.crops.global_size=64', 'model.pairs.pool_sizes=(2,4)']
    words += ['train_cfg.max_iters=3', 'default_hooks.checkpoint.interval=1', *options]
    words.append('optim_wrapper.accumulative_counts=1')
    train([*words, '--init', 'dinov3', '--trainable-blocks', '1', *adapt])
    assert 'shaped like dinov3: ' in log.text
    [last] = (tmp_path / 'work_dirs').glob('*/iter_3.pth')
    whole = read_checkpoint(str(last))['state_dict']
    last.unlink()
    for option in (['--lora', '4'], ['--trainable-blocks', '2']):
        with pytest.raises(SystemExit, match=f'must train what it has trained before, {option[0]}'):
            train([*words, '--resume', *option])
    with pytest.raises(SystemExit, match='model.losses.gram needs the initial weights'):
        train([*words, 'model.losses.gram.type=GramLoss', '--resume'])
    train([*words, '--resume'])
    meta = read_checkpoint(str(last))['meta']
    assert provenance_of(dict(meta=meta)).init == 'dinov3'  # not lost by resuming
    first, last = (
        read_checkpoint(str(last.with_name(f'iter_{step}.pth')))['state_dict'] for step in (2, 3)
    )
    moved = {n for n in first if n.startswith('backbone.') and not first[n].equal(last[n])}
    others = {name for name in moved if not name.startswith('backbone.layers.1.')}
    assert len(moved) > len(others) and bool(others) == bool(adapt)
    assert all('.lora_' in name or f'{name[:-6]}lora_down' in moved for name in others)
    assert whole.keys() == last.keys() and all(whole[n].equal(last[n]) for n in last)
    encoder = cotap_mm.load(dict(state_dict=last, meta=meta), output='backbone')
    assert encoder.network.num_registers == 4 and encoder.network.rope is not None
    assert encoder.network.layers[0].ln1.eps == model.config.layer_norm_eps
    cls, patches = encoder.encode(str(tmp_path / 'photos' / '0.png'))
    assert cls.shape == (1, 64) and patches.shape == (1, 64, 4, 4)
    assert os.listdir('work_dirs') == ['vits_folder']
