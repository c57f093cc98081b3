# CamVid, UPerNet on the toy ViT, 1 CPU x 8 images, 400 iterations: minutes on two cores.
#   CAMVID=DIR python tools/train.py configs/downstream/camvid_upernet.py
_base_ = [
    './_base_/toy_vit.py',
    './_base_/camvid.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/upernet_vitb.py',
    './_base_/schedule_upernet.py',
]
custom_imports = dict(imports=['cotap_mm.downstream'])
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=(184, 240)),
    backbone=dict(
        _base_.toy_vit,
        img_size=(184, 240),
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(checkpoint='{{$COTAP_CHECKPOINT:work_dirs/camvid_toy/iter_300.pth}}'),
    ),
    neck=dict(embed_dim=96, rescales=[2, 1, 0.5, 0.25], norm_cfg=norm_cfg),
    decode_head=dict(in_channels=[96, 96, 96, 192], channels=64, num_classes=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=96, channels=64, num_classes=11, norm_cfg=norm_cfg),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=40, by_epoch=False),
]
train_cfg = dict(max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=200))
