# CamVid on a CPU, evaluated on its labels: the toy ViT on real frames, minutes on two cores.
#   CAMVID=DIR python tools/train.py configs/cotap/camvid_toy.py
_base_ = [
    '../_base_/models/cotap_vit-toy-p8.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/cotap_toy.py',
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        # Crops at about the scale of the evaluation, which halves the images.
        crops=dict(
            global_size=64,
            local_size=32,
            num_local=2,
            global_scale=(0.06, 0.25),
            local_scale=(0.02, 0.06),
        ),
    ),
)
train_cfg = dict(max_iters=300)
custom_hooks = [
    dict(
        type='EvaluationHook',
        interval=150,
        num_classes=11,
        train={{_base_.labels.train}},
        val={{_base_.labels.val}},
        measure=[('student', 'backbone'), ('student', 'filter'), ('teacher', 'filter')],
        options=dict(image_size=(184, 240), memory_size=20000),
    ),
]
