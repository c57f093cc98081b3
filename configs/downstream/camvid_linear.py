# CamVid, frozen toy ViT, linear head, 1 CPU x 8 images, 400 iterations: minutes on two cores.
#   CAMVID=DIR python tools/train.py configs/downstream/camvid_linear.py
_base_ = [
    './_base_/toy_vit.py',
    './_base_/camvid.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/linear_vits.py',
    './_base_/schedule_frozen.py',
]
model = dict(
    data_preprocessor=dict(size=(184, 240)),
    backbone=dict(
        _base_.toy_vit,
        img_size=64,
        frozen_stages=4,
        init_cfg=dict(checkpoint='{{$COTAP_CHECKPOINT:work_dirs/camvid_toy/iter_300.pth}}'),
    ),
    decode_head=dict(in_channels=192, channels=192, num_classes=11),
)
# A larger rate than the paper's, and a decay: 400 small batches must do.
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False)]
train_cfg = dict(max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=200))
