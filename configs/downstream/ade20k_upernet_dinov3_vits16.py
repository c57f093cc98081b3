# ADE20K, UPerNet on ViT-S/16 of DINOv3, 512 px, 4 GPUs x 4 images, 160k iterations.
_base_ = './ade20k_upernet_vits.py'
model = dict(
    backbone=dict(
        arch='dinov3-small',
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov3_vits16_coco/iter_240000.pth}}'
        ),
    ),
)
