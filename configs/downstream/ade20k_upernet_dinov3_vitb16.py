# ADE20K, UPerNet on ViT-B/16 of DINOv3, 512 px, 8 GPUs x 2 images, 160k iterations.
_base_ = './ade20k_upernet.py'
model = dict(
    backbone=dict(
        arch='dinov3-base',
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov3_vitb16_coco/iter_210000.pth}}'
        ),
    ),
)
