# ViT-B/8 from DINO, COCO and ImageNet-1k (the paper): 8 GPUs x 8 images, 210k iterations.
_base_ = [
    '../_base_/models/vit-base-p8.py',
    '../_base_/datasets/coco_in1k.py',
    '../_base_/schedules/cotap_240k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    init_cfg=dict(
        type='PretrainedViT',
        checkpoint='https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth',
    )
)
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=64)
train_cfg = dict(max_iters=210_000)
