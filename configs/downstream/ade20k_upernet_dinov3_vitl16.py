# ADE20K, UPerNet on ViT-L/16 of DINOv3, 512 px, 8 GPUs x 2 images, 160k iterations.
_base_ = './ade20k_upernet.py'
model = dict(
    backbone=dict(
        arch='dinov3-large',
        out_indices=(7, 11, 15, 23),
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov3_vitl16_coco/iter_210000.pth}}'
        ),
    ),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
