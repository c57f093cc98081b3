# ImageNet, frozen ViT-S/16, linear classifier on CLS, 1 GPU x 256 images, 1 epoch.
# As in the paper: Adam, no augmentation.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['cotap_mm'])  # makes --resume work on torch >= 2.6
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='cotap_mm.CoTAPViT',
        arch='deit-small',
        patch_size=16,
        out_type='cls_token',
        frozen_stages=12,
        init_cfg=dict(
            type='cotap_mm.PretrainedViT',
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/vits_coco-in1k/iter_240000.pth}}',
        ),
    ),
    head=dict(
        type='LinearClsHead',
        in_channels=768,
        num_classes=1000,
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
