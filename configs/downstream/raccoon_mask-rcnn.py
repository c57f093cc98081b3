# Raccoon (COCO format, one class), Mask R-CNN on the toy ViT, 1 CPU x 4 images, 6 epochs: minutes
# on two cores. Strides 4, 8, 16 and 32 from patches of 8.
#   RACCOON=DIR python tools/train.py configs/downstream/raccoon_mask-rcnn.py
_base_ = [
    './_base_/toy_vit.py',
    './_base_/mask-rcnn_vitb.py',
    'mmdet::_base_/datasets/coco_instance.py',
    './_base_/schedule_detection_1x.py',
    'mmdet::_base_/default_runtime.py',
]
data_root = '{{$RACCOON:data/raccoon}}'
strides = [4, 8, 16, 32]
model = dict(
    backbone=dict(
        _base_.toy_vit,
        img_size=(184, 240),
        out_indices=(3,),
        drop_path_rate=0.1,
        with_cp=False,
        init_cfg=dict(checkpoint='{{$COTAP_CHECKPOINT:work_dirs/raccoon_toy/iter_300.pth}}'),
    ),
    neck=dict(
        _delete_=True,
        type='cotap_mm.SimpleFeaturePyramid',
        in_channels=192,
        out_channels=64,
        scale_factors=(2, 1, 0.5),
        num_outs=4,
    ),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=strides),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(out_channels=64, featmap_strides=strides),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2, num_classes=1),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=128))
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=200)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(
    data_root=data_root, metainfo=dict(classes=('raccoon',)), data_prefix=dict(img='images/')
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(dataset, ann_file='train.json', pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=1, dataset=dict(dataset, ann_file='val.json', pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='MultiStepLR', by_epoch=True, milestones=[4], gamma=0.1),
]
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
