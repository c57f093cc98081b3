# COCO, Mask R-CNN on ViT-B of DINOv2 with registers, 8 GPUs x 2 images, 12 epochs.
# Patches are resized from 14 to 16 px, for feature maps at strides of 4 to 32.
_base_ = './coco_mask-rcnn.py'
model = dict(
    backbone=dict(
        arch='dinov2-reg-base',
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov2r_vitb14_coco/iter_210000.pth}}',
            resize_patches=True,
        ),
    ),
)
