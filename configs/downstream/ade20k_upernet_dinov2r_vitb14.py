# ADE20K, UPerNet on ViT-B/14 of DINOv2 with registers, 512 px, 8 GPUs x 2 images, 160k iterations.
_base_ = './ade20k_upernet.py'
model = dict(
    backbone=dict(
        arch='dinov2-reg-base',
        patch_size=14,
        img_size=518,
        init_cfg=dict(
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/dinov2r_vitb14_coco/iter_210000.pth}}'
        ),
    ),
)
