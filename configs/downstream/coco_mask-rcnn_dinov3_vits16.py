# COCO, Mask R-CNN on ViT-S/16 of DINOv3, multi-scale and crop, 8 GPUs x 2 images, 12 epochs.
_base_ = './coco_mask-rcnn.py'
model = dict(
    backbone=dict(
        arch='dinov3-small',
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov3_vits16_coco/iter_240000.pth}}'
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
