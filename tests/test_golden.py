"""Comparison with reference vectors: inputs and outputs of the authors' implementation.

Shapes, sizes and configurations are read from the arrays, so the tests run on any
directory with these file names and keys: ``COTAP_GOLDEN_DIR=DIR pytest tests/test_golden.py``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from mmpretrain.models.utils.attention import scaled_dot_product_attention_pyimpl

from cotap_mm import ops
from cotap_mm.engine import compile_parts
from cotap_mm.models import (
    ClsClusterLoss,
    NeighborClusterLoss,
    ObjectAwareFilter,
    PatchClusterLoss,
    PatchPairSampler,
    PatchRankingLoss,
    PrototypeEntropyLoss,
    RandomDraws,
)
from tests.helpers.golden_replay import load_released, replay_training, tiny_cotap
from tests.helpers.golden_tools import Errors, load_vectors

HERE = Path(__file__).resolve().parent
GOLDEN = Path(os.environ.get('COTAP_GOLDEN_DIR', HERE / 'data' / 'golden'))
SHARED = HERE.parent.parent / 'shared' / 'golden'
FOLDERS = [GOLDEN] + ([SHARED] if SHARED.is_dir() and 'COTAP_GOLDEN_DIR' not in os.environ else [])
SINGLE, GRADIENT = 1e-5, 1e-4
DEEP = 5e-5  # float32 rounding through a whole network


def vectors(pattern):
    """Parametrize over the matching files of all folders."""
    files = [path for folder in FOLDERS for path in sorted(folder.glob(pattern))]
    assert files, f'no {pattern} in {[str(folder) for folder in FOLDERS]}'
    return pytest.mark.parametrize('path', files, ids=lambda p: f'{p.parent.name}/{p.stem}')


@vectors('*.npz')
def test_every_file_is_covered(path):
    known = (
        'cotap_loss_',
        'crop_boxes',
        'entropy',
        'foreground_mask',
        'inner_losses',
        'intra_losses',
        'oaf_block',
        'sinkhorn',
        'train_steps',
        'vit',
    )
    assert path.stem.startswith(known), f'no test reads {path.name}'


@pytest.mark.parametrize('method', ['auto', 'pairwise', 'sorted'])
@vectors('cotap_loss_*.npz')
def test_ranking_loss(path, method):
    z, errors = load_vectors(path), Errors(path)
    loss_fn = PatchRankingLoss(float(z['tau']), float(z['weight_thres']), float(z['alpha']), method)
    for suffix, dtype in (('', z['t'].dtype), ('_hi', torch.float64)):
        p = z['p'].to(dtype, copy=True).requires_grad_()
        t = z['t'].to(dtype)
        loss = loss_fn(p, t, z['is_match'])
        loss.backward()
        exact = dtype == torch.float64 and suffix == '_hi'
        # The authors' float64 run contains two roundings to float32 (see its README key).
        tight = 1e-10 if exact else 1e-8 if dtype == torch.float64 else SINGLE
        errors.check('loss' + suffix, loss, z['loss' + suffix], tight)
        errors.check(
            'grad_p' + suffix,
            p.grad,
            z['grad_p' + suffix],
            1e-10 if exact else 1e-7 if dtype == torch.float64 else GRADIENT,
        )
    p, t = z['p'], z['t']
    wrong, right = ops.rank_statistics(p, t, float(z['tau']), method)
    errors.check('loss_pn', wrong, z['loss_pn'], SINGLE)
    errors.check('loss_pp', right, z['loss_pp'], 0)
    errors.report()


@vectors('oaf_block.npz')
def test_object_aware_filter(path):
    from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

    z, errors = load_vectors(path), Errors(path)
    width, heads = z['x'].shape[-1], int(z['num_heads'])
    hidden = z['param.mlp.fc1.weight'].shape[0]
    block = TransformerEncoderLayer(width, heads, hidden, norm_cfg=dict(type='LN', eps=1e-6))
    neck = ObjectAwareFilter(width, len(z['kernel']))
    names = {
        'norm1': block.ln1,
        'norm2': block.ln2,
        'attn.qkv': block.attn.qkv,
        'attn.proj': block.attn.proj,
        'mlp.fc1': block.ffn.layers[0][0],
        'mlp.fc2': block.ffn.layers[1],
        'norm_in': neck.norm_prototypes,
        'norm_out_patch': neck.norm_patch,
        'norm_out_cls': neck.norm_cls,
    }
    with torch.no_grad():
        neck.prototypes.copy_(z['kernel'])
        for name, layer in names.items():
            layer.weight.copy_(z[f'param.{name}.weight'])
            layer.bias.copy_(z[f'param.{name}.bias'])
    x = z['x'].requires_grad_()
    side = int(round((x.shape[1] - 1) ** 0.5))
    grid = (side, side)
    out = block(x)
    errors.check('block_out', out, z['block_out'], SINGLE)
    cls, patches = neck(x, grid, block)
    errors.check('kernel_patch_out', patches, z['kernel_patch_out'], SINGLE)
    errors.check('kernel_cls_out', cls[:, None], z['kernel_cls_out'], SINGLE)
    errors.check('attn_ker', neck.attention(x, grid, block), z['attn_ker'], SINGLE)
    errors.check('attn_ker_full', neck.attention(out, grid, block), z['attn_ker_full'], SINGLE)
    cls, patches = neck(out, grid, block)
    full = torch.cat([cls[:, None], patches], dim=1)
    errors.check('forward_kernel_out', full, z['forward_kernel_out'], SINGLE)
    full.square().mean().backward()
    errors.check('grad_x', x.grad, z['grad_x'], GRADIENT)
    assert neck.prototypes.grad is None, 'the forward pass must not move the prototypes'
    for name, layer in names.items():
        for kind in ('weight', 'bias'):
            wanted, got = z[f'grad.{name}.{kind}'], getattr(layer, kind).grad
            if name == 'attn.qkv' and kind == 'bias':
                # The gradient of a key bias is only rounding error: compare the rest.
                keep = torch.ones_like(got, dtype=torch.bool)
                keep[width : 2 * width] = False
                wanted, got = wanted[keep], got[keep]
            errors.check(f'grad.{name}.{kind}', got, wanted, GRADIENT)
    errors.report()


@vectors('vit.npz')
@pytest.mark.parametrize('case', ['a', 'b'])
def test_vit(path, case):
    z, errors = load_vectors(path), Errors(path)
    params = {key[6:]: value for key, value in z.items() if key.startswith('param.')}
    model = tiny_cotap(params, int(z['num_heads']), int(z['img_size']))
    load_released(model, params)
    model.eval()
    images = model.data_preprocessor.normalize(z[f'{case}_images'] * 255)
    backbone = model.backbone
    tokens, grid = backbone.embed(images)
    entering, leaving, _ = backbone.forward_tokens(images)
    cls, maps = model.encode(images)
    patches = maps.flatten(2).transpose(1, 2)
    errors.check('tokens', tokens, z[f'{case}_tokens'], DEEP)
    errors.check('block10_out', entering, z[f'{case}_block10_out'], DEEP)
    errors.check('cls_feature', cls, z[f'{case}_cls_feature'], DEEP)
    errors.check('patch_feature', maps, z[f'{case}_patch_feature'], DEEP)
    scores = model.head['patch'](patches).transpose(1, 2).unflatten(2, grid)
    errors.check('feat_0', scores, z[f'{case}_feat_0'], DEEP)
    errors.check('cls_1', model.head['cls'](cls), z[f'{case}_cls_1'], DEEP)
    errors.check('cls_attn', backbone.cls_attention(entering), z[f'{case}_cls_attn'], DEEP)
    attention = model.prototype_attention(images).flatten(2, 3)
    errors.check('attn_ker', attention, z[f'{case}_attn_ker'], DEEP)
    mask = model.foreground(images, network='student')
    errors.check('foreground', mask[:, None].float(), z[f'{case}_foreground'], 0)
    errors.report()


@vectors('foreground_mask.npz')
def test_foreground_mask(path):
    z, errors = load_vectors(path), Errors(path)
    mask = ops.foreground_mask(z['attention'], float(z['threshold']), float(z['blur_sigma']))
    assert mask.dtype == torch.bool
    errors.check('mask', mask[:, None].float(), z['mask'], 0)
    errors.report()


@vectors('sinkhorn.npz')
def test_sinkhorn(path):
    z, errors = load_vectors(path), Errors(path)
    for key in (key for key in z if key.startswith('prob_')):
        temperature = int(key[5:]) / 1000
        result = ops.sinkhorn(z['scores'], temperature, int(z['n_iters']))
        errors.check(key, result, z[key], SINGLE)
    errors.report()


@vectors('entropy.npz')
def test_prototype_entropy(path):
    z, errors = load_vectors(path), Errors(path)
    kernel = z['kernel'].requires_grad_()
    loss = PrototypeEntropyLoss(float(z['temperature']))(kernel, z['samples'])
    loss.backward()
    errors.check('loss', loss, z['loss'], SINGLE)
    errors.check('grad_kernel', kernel.grad, z['grad_kernel'], GRADIENT)
    errors.report()


@vectors('crop_boxes.npz')
def test_crop_boxes(path):
    z, errors = load_vectors(path), Errors(path)
    sizes = [
        int(size) for size, count in zip(z['size_crops'], z['nmb_crops']) for _ in range(int(count))
    ]
    gc, other = ops.common_boxes(z['crop_boxes_abs'], sizes, int(z['nmb_crops'][0]))
    errors.check('boxes_gc', gc, z['boxes_gc'], SINGLE)
    errors.check('boxes_all', other, z['boxes_all'], SINGLE)
    errors.report()


def image_major(stacked, groups):
    """(2 * crops * B, ...) image crop0, image crop1, positive crop0, ... -> (2B, crops, ...)."""
    num_images = len(stacked) // (2 * groups)
    return stacked.unflatten(0, (2, groups, num_images)).transpose(1, 2).flatten(0, 1)


@vectors('inner_losses.npz')
def test_cluster_losses(path):
    z, errors = load_vectors(path), Errors(path)
    num_images, num_global = z['boxes_gc'].shape[:2]
    num_local = z['boxes_gc'].shape[2] - num_global
    height, width = z['stu_patch_gc'].shape[-2:]
    assignment = z['tea_patch_assign'].unflatten(0, (-1, height, width)).permute(0, 3, 1, 2)
    for suffix in ('_maskfix', '_nomask'):
        student_gc = z['stu_patch_gc'].clone().requires_grad_()
        student_lc = z['stu_patch_lc'].clone().requires_grad_()
        mask = z['foreground'] if suffix == '_maskfix' else torch.ones_like(z['foreground'])
        loss_fn = PatchClusterLoss(0.1, z['aligned_keep'].shape[-1], foreground_threshold=1.0)
        patch_size = round(float(z['boxes_gc'][0, 0, 0, 2]) / width)  # a crop's box in itself
        loss = loss_fn(
            image_major(student_gc, num_global),
            image_major(student_lc, num_local),
            image_major(assignment, num_global),
            image_major(mask, num_global)[:, :, 0],
            (z['boxes_gc'], z['boxes_all']),
            patch_size,
        )
        loss.backward()
        errors.check('loss_patch_inner' + suffix, loss, z['loss_patch_inner' + suffix], SINGLE)
        for name, tensor in (('gc', student_gc), ('lc', student_lc)):
            key = f'grad_stu_patch_{name}{suffix}'
            errors.check(key, tensor.grad, z[key], GRADIENT)
    cls_gc, cls_lc = z['stu_cls_gc'].requires_grad_(), z['stu_cls_lc'].requires_grad_()
    scores = torch.cat([image_major(cls_gc, num_global), image_major(cls_lc, num_local)], dim=1)
    assert len(scores) == num_images
    loss = ClsClusterLoss(0.1)(scores, image_major(z['tea_cls_assign'], num_global))
    loss.backward()
    errors.check('loss_cls_inner', loss, z['loss_cls_inner'], SINGLE)
    errors.check('grad_stu_cls_gc', cls_gc.grad, z['grad_stu_cls_gc'], GRADIENT)
    errors.check('grad_stu_cls_lc', cls_lc.grad, z['grad_stu_cls_lc'], GRADIENT)
    errors.report()


class Replayed(RandomDraws):
    """Negatives from the file, one draw for each pool size."""

    def __init__(self, draws):
        self.draws = list(draws)

    def negatives(self, num_images, num_negatives):
        return self.draws.pop(0)


@vectors('intra_losses.npz')
def test_losses_between_neighbors(path):
    z, errors = load_vectors(path), Errors(path)
    student, positive = z['stu'].requires_grad_(), z['stu_pos'].requires_grad_()
    sampler = PatchPairSampler(z['pool_ks'].tolist(), int(z['topk']), z['neg_perms'].shape[1])
    pairs = sampler(
        torch.cat([student, positive]),
        torch.cat([z['tea'], z['tea_pos']]),
        torch.cat([z['foreground'], z['foreground_pos']]),
        Replayed(z['neg_perms']),
    )
    losses = []
    for size, (pred, target, is_neighbor) in zip(z['pool_ks'].tolist(), pairs):
        losses.append(PatchRankingLoss()(pred, target, is_neighbor))
        wanted = z[f'pool{size}_sim_tea']  # (B, (1 + R) * topk, topk)
        shape = (wanted.shape[0], -1, int(z['topk']), wanted.shape[-1])
        for name, values in (('sim_tea', target), ('sim_stu', pred)):
            rows = z[f'pool{size}_{name}'].reshape(shape).transpose(0, 1)
            errors.check(f'pool{size}_{name}', values, rows.flatten(), SINGLE)
        matches = z[f'pool{size}_is_match'].reshape(shape).transpose(0, 1).flatten()
        errors.check(f'pool{size}_is_match', is_neighbor.float(), matches, 0)
    loss = torch.stack(losses).mean()
    loss.backward()
    errors.check('loss_patch_intra', loss, z['loss_patch_intra'], SINGLE)
    errors.check('grad_stu', student.grad, z['grad_stu'], GRADIENT)
    errors.check('grad_stu_pos', positive.grad, z['grad_stu_pos'], GRADIENT)

    cls, cls_pos = z['cls_stu'].requires_grad_(), z['cls_stu_pos'].requires_grad_()
    loss = NeighborClusterLoss(float(z['temperature_cls']))(
        torch.cat([cls, cls_pos]), torch.cat([z['cls_tea'], z['cls_tea_pos']])
    )
    loss.backward()
    errors.check('loss_cls_intra', loss, z['loss_cls_intra'], SINGLE)
    errors.check('grad_cls_stu', cls.grad, z['grad_cls_stu'], GRADIENT)
    errors.check('grad_cls_stu_pos', cls_pos.grad, z['grad_cls_stu_pos'], GRADIENT)
    errors.report()


@vectors('train_steps.npz')
def test_spherical_kmeans(path):
    z, errors = load_vectors(path), Errors(path)
    recorded = sorted(key for key in z if re.match(r'step\d+_perm\d+_cluster$', key))
    draws = iter([z[key] for key in recorded])
    with mock.patch('torch.randperm', lambda count, generator=None: next(draws)):
        centers = ops.spherical_kmeans(
            z['bank_at_kmeans'].flatten(1), len(z['kernel_after_kmeans'])
        )
    errors.check('kernel_after_kmeans', centers, z['kernel_after_kmeans'].flatten(1), SINGLE)
    errors.report()


def set_method(method):
    def change(model):
        model.losses['patch_ranking'].method = method

    return change


def set_backbone(key, value=True):
    def change(model):
        for network in (model.backbone, model.teacher.backbone):
            assert getattr(network, key) is False
            setattr(network, key, value)

    return change


def plain_attention(model):
    for network in (model.backbone, model.teacher.backbone):
        for block in network.layers:
            block.attn.scaled_dot_product_attention = scaled_dot_product_attention_pyimpl


def compile_all(model):
    assert compile_parts(model, backend='aot_eager', dynamic=False)


MODES = dict(
    plain=lambda model: None,
    pairwise=set_method('pairwise'),
    sorted=set_method('sorted'),
    checkpointed=set_backbone('with_cp'),
    checkpointed_mlp=set_backbone('with_cp', 'mlp'),
    plain_attention=plain_attention,
    channels_last=set_backbone('channels_last'),
    compiled=compile_all,
)


@pytest.mark.slow
@pytest.mark.parametrize('mode', MODES)
@vectors('train_steps.npz')
def test_training_steps(path, mode):
    z, errors = load_vectors(path), Errors(path)
    result = replay_training(z, MODES[mode])
    errors.check('losses', result.losses, z['losses'], GRADIENT)
    for key, value in result.arrays.items():
        errors.check(key, value, z[key], GRADIENT)
    errors.check_weights('final_student', result.student, z, 'tol_student', GRADIENT)
    errors.check_weights('final_teacher', result.teacher, z, 'tol_teacher', GRADIENT)
    for step in (1, len(z['losses'])):
        errors.check_norms(f'gradnorm_step{step}', result.gradient_norms[step], z, GRADIENT)
    assert np.isfinite(result.losses.numpy()).all()
    errors.report()
