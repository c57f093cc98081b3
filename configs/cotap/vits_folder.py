# ViT-S/16 from DINO on any folder of images, one 8 GB GPU:
#   python tools/train.py configs/cotap/vits_folder.py --images DIR
# Its queues have a quarter of the paper's rows.
_base_ = './vits_coco.py'
model = dict(
    backbone=dict(with_cp=True),  # activation checkpointing
    memory=dict(patch_queue=dict(size=65536), cls_queue=dict(size=8192)),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(accumulative_counts=4)
train_cfg = dict(max_iters=100_000)
auto_scale_lr = dict(base_batch_size=8)
