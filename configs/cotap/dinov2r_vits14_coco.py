# ViT-S/14 from DINOv2 with registers, COCO for both branches: 4 GPUs x 28 images, 240k iterations.
# Not in the paper.
_base_ = './vits_coco.py'
model = dict(
    backbone=dict(arch='dinov2-reg-small', patch_size=14, img_size=518),
    init_cfg=dict(
        checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth'
    ),
    pairs=dict(pool_sizes=(8, 16)),  # half and all of the patch grid
)
train_dataloader = dict(dataset=dict(crops=dict(local_size=98)))  # a multiple of 14
