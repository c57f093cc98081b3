# ViT-S/16 from DINO on CamVid, evaluated on its labels, 1,000 iterations.
#   CAMVID=DIR python tools/train.py configs/cotap/camvid_vits.py
_base_ = [
    '../_base_/models/cotap_vit-small-p16.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/cotap_toy.py',
]
model = dict(
    init_cfg=dict(
        type='PretrainedViT',
        checkpoint='https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth',
    ),
    memory=dict(patch_queue=dict(size=65536), cls_queue=dict(size=8192)),
)
train_dataloader = dict(batch_size=28)
train_cfg = dict(max_iters=1000)
custom_hooks = [
    dict(
        type='EvaluationHook',
        interval=1000,
        num_classes=11,
        train={{_base_.labels.train}},
        val={{_base_.labels.val}},
        measure=[('student', 'backbone'), ('student', 'filter')],
        options=dict(image_size=(368, 480), memory_size=50000),
    ),
]
