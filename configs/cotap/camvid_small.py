# CamVid on a CPU, measured on its labels: the toy ViT on real frames, minutes on two cores.
#   CAMVID=DIR python tools/train.py configs/cotap/camvid_small.py
_base_ = [
    '../_base_/models/vit-toy-p8.py', '../_base_/datasets/folder.py',
    '../_base_/schedules/cotap_240k.py', '../_base_/default_runtime.py'
]
root = '{{$CAMVID:data/camvid}}'  # images/{train,val} and labels/{train,val}
model = dict(init_cfg=dict(type='PretrainedViT', checkpoint='cotap_mm://toy_vit.pth'))
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        patch=dict(root=root + '/images/train'),
        crops=dict(global_size=64, local_size=32, num_local=2)))
train_cfg = dict(max_iters=200)
optim_wrapper = dict(
    optimizer=dict(lr=4e-4, weight_decay=0.04), paramwise_cfg=dict(head_lr_mult=8))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=4e-5, by_epoch=False)]
labels = dict(type='ImageMaskFolder', images=root + '/images/train', labels=root + '/labels/train')
custom_hooks = [
    dict(type='TeacherHook', start=0.99, end=0.998),
    dict(type='MonitorHook', interval=50),
    dict(type='ScheduleLengthHook'),
    dict(
        type='DenseRetrievalHook', interval=100, num_classes=11, memory=labels,
        queries=dict(type='ImageMaskFolder', images=root + '/images/val',
                     labels=root + '/labels/val'),
        measure=[('student', 'backbone'), ('student', 'filter'), ('teacher', 'filter')],
        options=dict(image_size=(184, 240), memory_size=20000)),
]
