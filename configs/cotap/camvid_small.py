# CamVid on a CPU, measured on its labels: the toy ViT on real frames, minutes on two cores.
#   CAMVID=DIR python tools/train.py configs/cotap/camvid_small.py
_base_ = [
    '../_base_/models/vit-toy-p8.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/cotap_240k.py',
    '../_base_/default_runtime.py',
]
root = '{{$CAMVID:data/camvid}}'  # images/{train,val} and labels/{train,val}
model = dict(
    init_cfg=dict(type='PretrainedViT', checkpoint='cotap_mm://toy_vit.pth'),
    losses=dict(patch_ranking=dict(tau=0.02)),
)  # as in the demo
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        patch=dict(root=root + '/images/train'),
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
optim_wrapper = dict(
    optimizer=dict(lr=1.2e-4, weight_decay=0.04), paramwise_cfg=dict(head_lr_mult=20)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False),
]
labels = dict(type='ImageMaskFolder', images=root + '/images/train', labels=root + '/labels/train')
default_hooks = dict(teacher=dict(start=0.985, end=0.996))
custom_hooks = [
    dict(
        type='EvaluationHook',
        interval=150,
        num_classes=11,
        train=labels,
        val=dict(type='ImageMaskFolder', images=root + '/images/val', labels=root + '/labels/val'),
        measure=[('student', 'backbone'), ('student', 'filter'), ('teacher', 'filter')],
        options=dict(image_size=(184, 240), memory_size=20000),
    ),
]
