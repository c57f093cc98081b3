# VOC 07+12, Faster R-CNN on ViT-B/16, 8 GPUs x 2 images, 4 epochs of three passes.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    './_base_/vitb_pyramid.py',
    'mmdet::_base_/datasets/voc0712.py',
    './_base_/schedule_detection_1x.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(_base_.vit, img_size=(608, 800)),
    neck=_base_.pyramid,
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
train_cfg = dict(max_epochs=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, milestones=[3], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
