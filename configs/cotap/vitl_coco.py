# ViT-L/16 from iBOT, COCO for both branches: 8 GPUs x 16 images, 210k iterations. Not in the paper.
_base_ = [
    '../_base_/models/vit-large-p16.py',
    '../_base_/datasets/coco.py',
    '../_base_/schedules/cotap_240k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    init_cfg=dict(
        type='PretrainedViT',
        checkpoint='https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vitl_16/checkpoint_teacher.pth',
    )
)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(base_batch_size=128)
train_cfg = dict(max_iters=210_000)
# Weights, gradients and the optimiser's state are shared out among the GPUs.
strategy = dict(type='cotap_mm.CoTAPFSDPStrategy')
