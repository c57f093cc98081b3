# ViT-B/16 from DINO, COCO for both branches: 8 GPUs x 16 images, 210k iterations.
# From iBOT or Mugs (--init) the paper trains for 240k: --cfg-options train_cfg.max_iters=240000.
_base_ = [
    '../_base_/models/cotap_vit-base-p16.py',
    '../_base_/datasets/coco.py',
    '../_base_/schedules/cotap.py',
    '../_base_/default_runtime.py',
]
model = dict(
    init_cfg=dict(
        type='PretrainedViT',
        checkpoint='https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth',
    )
)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(base_batch_size=128)
train_cfg = dict(max_iters=210_000)
