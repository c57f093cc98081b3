# The demo: CoTAP on toy scenes from the shipped toy ViT, minutes on two CPU cores (make demo).
_base_ = [
    '../_base_/models/cotap_vit-toy-p8.py',
    '../_base_/datasets/toy.py',
    '../_base_/schedules/cotap_toy.py',
]
train_cfg = dict(max_iters=350)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=1000),
    monitor=dict(interval=20),
)

labeled = dict(type='ToyScenes', num_images=200)
demo = dict(memory=dict(split='memory', **labeled), test=dict(split='test', **labeled))
custom_hooks = [
    dict(
        type='EvaluationHook',
        interval=100,
        num_classes=9,
        train=demo['memory'],
        val=dict(type='ToyScenes', split='val', num_images=60),
    ),
]
