# ViT-S/14 from DINOv2 with registers on any folder of images, 8 images a step, accumulated 4 times.
#   cotap train dinov2r_vits14_folder --images DIR
_base_ = './vits_folder.py'
model = dict(
    backbone=dict(arch='dinov2-reg-small', patch_size=14, img_size=518),
    init_cfg=dict(
        checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth'
    ),
    pairs=dict(pool_sizes=(8, 16)),
)
train_dataloader = dict(dataset=dict(crops=dict(local_size=98)))  # a multiple of 14
