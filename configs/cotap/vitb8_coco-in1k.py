# ViT-B/8 from DINO, COCO and ImageNet-1k (the paper): 8 GPUs x 8 images, 210k iterations.
_base_ = './vitb_coco-in1k.py'
model = dict(
    backbone=dict(patch_size=8),
    init_cfg=dict(
        checkpoint='https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth'
    ),
)
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=64)
