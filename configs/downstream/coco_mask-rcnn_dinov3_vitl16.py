# COCO, Mask R-CNN on ViT-L/16 of DINOv3, multi-scale and crop, 8 GPUs x 2 images, 12 epochs.
_base_ = './coco_mask-rcnn.py'
model = dict(
    backbone=dict(
        arch='dinov3-large',
        out_indices=(7, 11, 15, 23),
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov3_vitl16_coco/iter_210000.pth}}'
        ),
    ),
    neck=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=1024,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=dict(type='SyncBN'),
        ),
        dict(type='FPN', in_channels=[1024, 1024, 1024, 2048], out_channels=256, num_outs=5),
    ],
)
