# COCO, Mask R-CNN on ViT-B/16 of DINOv3, multi-scale and crop, 8 GPUs x 2 images, 12 epochs.
_base_ = './coco_mask-rcnn.py'
model = dict(
    backbone=dict(
        arch='dinov3-base',
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov3_vitb16_coco/iter_210000.pth}}'
        ),
    ),
)
