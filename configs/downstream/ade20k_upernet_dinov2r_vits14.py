# ADE20K, UPerNet on ViT-S/14 of DINOv2 with registers, 512 px, 4 GPUs x 4 images, 160k iterations.
_base_ = './ade20k_upernet_vits.py'
model = dict(
    backbone=dict(
        arch='dinov2-reg-small',
        patch_size=14,
        img_size=518,
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov2r_vits14_coco/iter_240000.pth}}'
        ),
    ),
)
