# The demo: CoTAP on toy scenes from the shipped toy ViT, minutes on two CPU cores (make demo).
_base_ = [
    '../_base_/models/vit-toy-p8.py',
    '../_base_/datasets/toy.py',
    '../_base_/schedules/cotap_240k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    init_cfg=dict(type='PretrainedViT', checkpoint='cotap_mm://toy_vit.pth'),
    # Similarities of toy patches lie closer together than those of photographs.
    losses=dict(patch_ranking=dict(tau=0.02)),
)
train_cfg = dict(max_iters=350)
optim_wrapper = dict(
    optimizer=dict(lr=1.2e-4, weight_decay=0.04), paramwise_cfg=dict(head_lr_mult=20)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=1000),
    monitor=dict(interval=20),
    teacher=dict(start=0.985, end=0.996),
)

labelled = dict(type='ToyScenes', num_images=200)
demo = dict(memory=dict(split='memory', **labelled), test=dict(split='test', **labelled))
custom_hooks = [
    dict(
        type='EvaluationHook',
        interval=100,
        num_classes=9,
        train=demo['memory'],
        val=dict(type='ToyScenes', split='val', num_images=60),
    ),
]
