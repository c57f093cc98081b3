# COCO, Mask R-CNN on ViT-S of DINOv2 with registers, 8 GPUs x 2 images, 12 epochs.
# Patches are resized from 14 to 16 px, for feature maps at strides of 4 to 32.
_base_ = './coco_mask-rcnn.py'
model = dict(
    backbone=dict(
        arch='dinov2-reg-small',
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov2r_vits14_coco/iter_240000.pth}}',
            resize_patches=True,
        ),
    ),
    neck=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=384,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=dict(type='SyncBN'),
        ),
        dict(type='FPN', in_channels=[384, 384, 384, 768], out_channels=256, num_outs=5),
    ],
)
