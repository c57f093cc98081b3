# Makes the toy ViT that the demo starts from: self-distillation of CLS on one-object images only.
#   python tools/train.py configs/cotap/demo_init.py --seed 0
#   python tools/convert.py work_dirs/demo_init/iter_1300.pth cotap_mm/assets/toy_vit.pth \
#       --layout vit --overwrite
_base_ = './demo.py'
model = dict(
    init_cfg=None,
    losses=dict(patch_cluster=None, patch_ranking=None, cls_neighbor=None, prototype_entropy=None))
train_dataloader = dict(dataset=dict(patch=dict(scene='single')))
train_cfg = dict(max_iters=1300)
optim_wrapper = dict(
    optimizer=dict(lr=8e-4, weight_decay=0.05), paramwise_cfg=dict(head_lr_mult=4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', eta_min=4e-5, by_epoch=False),
]
