# Runs of a few hundred iterations from the toy ViT: larger rates, a warm-up, a faster teacher, and
# constant weight decay (0.04).
_base_ = ['./cotap.py', '../default_runtime.py']
optim_wrapper = dict(
    optimizer=dict(lr=1.2e-4, weight_decay=0.04), paramwise_cfg=dict(head_lr_mult=20)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False),
]
default_hooks = dict(teacher=dict(start=0.985, end=0.996))
