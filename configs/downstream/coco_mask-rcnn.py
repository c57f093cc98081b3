# COCO, Mask R-CNN on ViT-B/16, multi-scale and crop, 8 GPUs x 2 images, 12 epochs.
_base_ = [
    './_base_/mask-rcnn_vitb.py',
    './_base_/coco_ms-crop.py',
    './_base_/schedule_detection_1x.py',
    'mmdet::_base_/default_runtime.py',
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
