"""Build a CoTAP of the size of the reference vectors and replay their training steps."""

from __future__ import annotations

import ast
import re
from types import SimpleNamespace
from unittest import mock

import torch
from mmengine.optim import build_optim_wrapper

from cotap_mm.models import CoTAP, RandomDraws
from cotap_mm.weights import load_pretrained, rename_released

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def read_config(z):
    """Read the configuration from the README key of a file."""
    return ast.literal_eval(re.search(r'config:?\s*(\{.*?\})', str(z['README'])).group(1))


def tiny_cotap(params, num_heads, img_size, memory=None, pairs=None, roi_size=6):
    """Build a CoTAP with the sizes of released parameters."""
    width, _, patch_size, _ = params['patch_embed.proj.weight'].shape
    depth = len({name.split('.')[1] for name in params if name.startswith('blocks.')})

    def head(index):
        prefix = f'projection_heads.{index}.'
        return dict(
            type='PrototypeHead',
            in_channels=2 * width,
            num_clusters=len(params[prefix + 'last_layer.weight_v']),
            hidden_channels=len(params[prefix + 'projection_head.0.weight']),
            out_channels=len(params[prefix + 'projection_head.4.weight']),
        )

    return CoTAP(
        backbone=dict(
            type='DINOViT',
            img_size=img_size,
            patch_size=patch_size,
            arch=dict(
                embed_dims=width,
                num_layers=depth,
                num_heads=num_heads,
                feedforward_channels=len(params['blocks.0.mlp.fc1.weight']),
            ),
        ),
        neck=dict(
            type='ObjectAwareFilter', in_channels=width, num_prototypes=len(params['kernel'])
        ),
        head=dict(patch=head(0), cls=head(1)),
        losses=dict(
            patch_cluster=dict(
                type='PatchClusterLoss', roi_size=roi_size, foreground_threshold=1.0
            ),
            cls_cluster=dict(type='ClsClusterLoss'),
            patch_ranking=dict(type='PatchRankingLoss'),
            cls_neighbor=dict(type='NeighborClusterLoss'),
            prototype_entropy=dict(type='PrototypeEntropyLoss'),
        ),
        memory=memory
        or dict(
            patch_queue=dict(size=8, temperature=0.05, per_step=8),
            cls_queue=dict(size=8, temperature=0.07, per_step=8),
            template_bank=dict(size=8),
        ),
        pairs=pairs,
        data_preprocessor=dict(type='CoTAPDataPreprocessor', color=None, **IMAGENET),
    )


def load_released(model, params):
    """Load a released state dict; every key must match."""
    report = load_pretrained(model, dict(params), source='cotap')
    assert not report.missing and not report.unexpected, str(report)


def by_released_name(model, names):
    """Parameters of a network (student or teacher) by their released names."""
    own = dict(model.named_parameters())
    renamed = {name: rename_released(name) for name in names}
    return {name: own[key] for name, key in renamed.items() if key in own}


def image_major(crops):
    """([image|positive], crops, B, ...) -> (2B, crops, ...)."""
    return crops.transpose(1, 2).flatten(0, 1)


class RecordedDraws(RandomDraws):
    """Replays the recorded draws; the file orders crops as [image|positive][crop][b]."""

    def __init__(self, z, num_images, num_global):
        self.z = z
        index = torch.arange(2 * num_images * num_global)
        ours = index.view(2, num_images, num_global)
        self.our_crop = ours.transpose(1, 2).flatten()  # index of a crop in the file -> our index
        self.begin(1)

    def begin(self, step):
        self.step, self.pool = step, 0

    def _recorded(self, caller):
        pattern = re.compile(rf'step{self.step}_perm\d+_{caller}$')
        found = [key for key in self.z if pattern.match(key)]
        assert len(found) == 1, found
        return self.z[found[0]]

    def order(self, purpose, count):
        if purpose == 'template_bank':
            return self.our_crop[self._recorded('MemoryBank')]
        if purpose == 'cls_queue':
            recorded = self._recorded('MemoryBankCls')
            # In its first step the reference takes the first rows, not random ones.
            return self.our_crop[torch.arange(len(recorded)) if self.step == 1 else recorded]
        raise AssertionError(purpose)

    def foreground_patches(self, foreground, count):
        mask = self.z[f'step{self.step}_foreground'].flatten(1).bool()  # (crops, N)
        crop, patch = mask.nonzero(as_tuple=True)
        ours = self.our_crop[crop] * mask.shape[1] + patch
        assert torch.equal(ours.sort().values, foreground.nonzero()[:, 0]), (
            'the foreground differs from the recorded one'
        )
        chosen = ours[self._recorded('MemoryBankPatch')][:count]
        return chosen, torch.tensor(len(chosen))

    def top_patches(self, foreground, count):
        chosen = self.z[f'step{self.step}_topk_idx'][self.pool].flatten(0, 1)
        best = foreground.topk(count, dim=1).values
        assert torch.allclose(foreground.gather(1, chosen), best), 'recorded patches are not top'
        return chosen

    def negatives(self, num_images, num_negatives):
        self.pool += 1
        return self.z[f'step{self.step}_neg_perms'][self.pool - 1]


def step_inputs(z, step, model):
    """The views of one recorded step."""
    inputs = {}
    for branch in ('patch', 'cls'):
        global_crops, local_crops = (
            model.data_preprocessor.normalize(
                image_major(z[f'crops_{branch}_{kind}'][step - 1]).float()
            )
            for kind in ('gc', 'lc')
        )
        inputs[branch] = dict(
            student_global=global_crops, student_local=local_crops, teacher_global=global_crops
        )
    inputs['patch'].update(
        common_global=z['boxes_gc'][step - 1], common_other=z['boxes_all'][step - 1]
    )
    return inputs


def replay_training(z, change=lambda model: None):
    """Train five steps with a model that ``change`` modifies; return what the file records."""
    config = read_config(z)
    initial = {key[5:]: value for key, value in z.items() if key.startswith('init.')}
    model = tiny_cotap(
        initial,
        config['heads'],
        config['img'],
        roi_size=config['roi'],
        memory=dict(
            patch_queue=dict(size=config['pq'], temperature=0.05, per_step=2048),
            cls_queue=dict(size=config['cq'], temperature=0.07, per_step=100),
            template_bank=dict(size=config['bank'], per_step=32),
        ),
        pairs=dict(
            pool_sizes=config['pool'],
            topk=config['topk'],
            num_negatives=z['step1_neg_perms'].shape[1],
        ),
    )
    load_released(model, initial)
    model.train()
    change(model)
    num_global, num_images = z['crops_patch_gc'].shape[2:4]
    draws = model.draws = RecordedDraws(z, num_images, num_global)
    optim = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='cotap_mm.CoTAPOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=3e-5, weight_decay=0.024),
        ),
    )
    names = z['param_names'].tolist()
    losses, norms, arrays = [], {}, {}

    def recorded_kmeans(samples, num_clusters):
        assert draws.step == int(z['kmeans_step'])
        return z['kernel_after_kmeans'].flatten(1)

    for step in range(1, len(z['losses']) + 1):
        draws.begin(step)
        inputs = step_inputs(z, step, model)
        with mock.patch('cotap_mm.models.modules.template_bank.spherical_kmeans', recorded_kmeans):
            terms = model.loss(inputs)
        columns = [
            terms['loss_' + name]
            for name in (
                'patch_cluster',
                'cls_cluster',
                'patch_ranking',
                'cls_neighbor',
                'prototype_entropy',
            )
        ]
        total = sum(columns)
        losses.append(torch.stack([*columns, total]).detach())
        optim.zero_grad()
        total.backward()
        parameters = by_released_name(model, names)
        norms[step] = {name: p.grad.norm() for name, p in parameters.items() if p.grad is not None}
        if step == 1:
            arrays.update(
                {
                    f'grad_step1.{name}': p.grad.clone()
                    for name, p in parameters.items()
                    if f'grad_step1.{name}' in z
                }
            )
            arrays.update(
                patch_queue_after_step1=model.patch_queue.newest_scores(),
                cls_queue_after_step1=model.cls_queue.newest_scores(),
            )
        optim.step()
        model.teacher.update(model.student, config['ema'])
    arrays.update(
        patch_queue_final=model.patch_queue.newest_scores(),
        cls_queue_final=model.cls_queue.newest_scores(),
        bank_final=model.template_bank.newest_first(),
    )
    return SimpleNamespace(
        losses=torch.stack(losses),
        gradient_norms=norms,
        arrays=arrays,
        student=by_released_name(model, names),
        teacher=by_released_name(model.teacher, names),
    )
