# ImageNet, frozen ViT-S/16, linear classifier on CLS, 1 GPU x 256 images, 1 epoch.
# As in the paper: Adam, no augmentation.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/default_runtime.py',
    './_base_/classifier_vit.py',
]
model = dict(
    backbone=dict(
        arch='deit-small',
        frozen_stages=12,
        init_cfg=dict(checkpoint='{{$COTAP_CHECKPOINT:work_dirs/vits_coco-in1k/iter_240000.pth}}'),
    ),
    head=dict(
        in_channels=768,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
train_dataloader = dict(batch_size=256, num_workers=16, dataset=dict(pipeline=_base_.test_pipeline))
val_dataloader = dict(batch_size=256)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
