# ViT-S/16 from DINO, COCO for both branches: 4 GPUs x 28 images, 240k iterations.
_base_ = [
    '../_base_/models/cotap_vit-small-p16.py',
    '../_base_/datasets/coco.py',
    '../_base_/schedules/cotap.py',
    '../_base_/default_runtime.py',
]
model = dict(
    init_cfg=dict(
        type='PretrainedViT',
        checkpoint='https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth',
    )
)
train_dataloader = dict(batch_size=28)
auto_scale_lr = dict(base_batch_size=112)
