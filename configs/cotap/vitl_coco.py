# ViT-L/16 from iBOT, COCO for both branches: 8 GPUs x 16 images, 210k iterations. Not in the paper.
_base_ = './vitb_coco.py'
model = dict(
    backbone=dict(arch='large', with_cp=True),
    init_cfg=dict(
        checkpoint='https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vitl_16/checkpoint_teacher.pth'
    ),
)
# FSDP: weights, gradients and optimizer state are sharded across the GPUs.
strategy = dict(type='cotap_mm.CoTAPFSDPStrategy')
