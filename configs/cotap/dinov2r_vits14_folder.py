# ViT-S/14 from DINOv2 with registers on any folder of images, 8 images a step, accumulated 4 times.
#   cotap train dinov2r_vits14_folder --images DIR
_base_ = './dinov2r_vits14_coco.py'
model = dict(
    backbone=dict(with_cp=True),  # activation checkpointing
    memory=dict(patch_queue=dict(size=65536), cls_queue=dict(size=8192)),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(accumulative_counts=4)
train_cfg = dict(max_iters=100_000)
auto_scale_lr = dict(base_batch_size=8)
