# COCO, Cascade Mask R-CNN on ViT-B/16, multi-scale and crop, 8 GPUs x 2 images, 12 epochs.
# iBOT's recipe (https://github.com/bytedance/ibot): its ViT-B has 51.2 box AP and 44.2 mask AP.
_base_ = [
    './_base_/cascade-mask-rcnn_vitb.py',
    './_base_/coco_ms-crop.py',
    './_base_/schedule_detection_1x.py',
    'mmdet::_base_/default_runtime.py',
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
