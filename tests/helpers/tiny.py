"""A CoTAP with a few thousand parameters, and a batch for it."""

from __future__ import annotations

import torch

from cotap_mm.models import CoTAP
from cotap_mm.ops import common_boxes

#: Config in a checkpoint of the tiny network; the weights do not tell the number of heads.
CONFIG = "model = dict(type='CoTAP', backbone=dict(arch=dict(num_heads=2)))"
#: What a network of today has besides the layers of the first ViTs.
MODERN = dict(
    arch=dict(ffn='swiglu', qk_norm=True),
    num_registers=2,
    rope=dict(theta=50.0),
    layer_scale_init_value=0.1,
)
LOSSES = dict(
    patch_cluster=dict(type='PatchClusterLoss'),
    cls_cluster=dict(type='ClsClusterLoss'),
    patch_ranking=dict(type='PatchRankingLoss'),
    cls_neighbor=dict(type='NeighborClusterLoss'),
    prototype_entropy=dict(type='PrototypeEntropyLoss'),
)


def build_tiny(
    losses=None, queue_size=64, loss_weights=None, use_filter=True, memory=None, **backbone
):
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    arch.update(backbone.pop('arch', {}))
    head = dict(type='PrototypeHead', hidden_channels=16, out_channels=8)
    neck = dict(type='ObjectAwareFilter', num_prototypes=2) if use_filter else dict(type='NoFilter')
    return CoTAP(
        backbone={'type': 'DINOViT', 'arch': arch, 'img_size': 32, 'patch_size': 8, **backbone},
        neck=neck,
        head=dict(patch=dict(head, num_clusters=6), cls=dict(head, num_clusters=10)),
        losses=losses or LOSSES,
        loss_weights=loss_weights,
        memory=memory
        or dict(
            patch_queue=dict(size=queue_size, temperature=0.05, per_step=16),
            cls_queue=dict(size=16, temperature=0.07, per_step=4),
            template_bank=dict(size=24, per_step=4),
        ),
        pairs=dict(pool_sizes=(2, 4), topk=3, num_negatives=2),
        data_preprocessor=dict(type='CoTAPDataPreprocessor', color=None),
    )


def make_inputs(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for name in ('patch', 'cls'):
        global_crops = torch.randn(2 * batch, 2, 3, 32, 32, generator=generator)
        inputs[name] = dict(
            student_global=global_crops,
            teacher_global=global_crops,
            student_local=torch.randn(2 * batch, 4, 3, 16, 16, generator=generator),
        )
    boxes = torch.tensor(
        [
            [0.0, 0.0, 32.0, 32.0],
            [4.0, 4.0, 40.0, 40.0],
            [6.0, 6.0, 22.0, 22.0],
            [8.0, 8.0, 24.0, 24.0],
            [10.0, 6.0, 26.0, 22.0],
            [12.0, 9.0, 28.0, 25.0],
        ]
    )
    boxes = boxes.expand(2 * batch, 6, 4)
    in_global, in_other = common_boxes(boxes, [32, 32, 16, 16, 16, 16], 2)
    inputs['patch'].update(common_global=in_global, common_other=in_other)
    return inputs


def write_checkpoint(path):
    """Write a checkpoint as a training does."""
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_tiny().state_dict(), meta=dict(cfg=CONFIG)), path)
