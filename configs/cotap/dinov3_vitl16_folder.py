# ViT-L/16 from DINOv3 on any folder of images, 4 images a step, accumulated 8 times.
#   cotap train dinov3_vitl16_folder --images DIR
# The weights are under the DINOv3 License.
_base_ = './dinov3_vitl16_coco.py'
model = dict(
    backbone=dict(with_cp=True),  # activation checkpointing
    memory=dict(patch_queue=dict(size=65536), cls_queue=dict(size=8192)),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(accumulative_counts=8)
train_cfg = dict(max_iters=100_000)
auto_scale_lr = dict(base_batch_size=4)
strategy = None
