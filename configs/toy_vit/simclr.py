# Makes the toy ViT that the demo starts from: MMPretrain's SimCLR on one-object toy images,
# which tools/make_toy_vit.py writes to data_root first (2 to 3 minutes on two cores).
default_scope = 'mmpretrain'
custom_imports = dict(imports=['cotap_mm'])
data_root = 'work_dirs/toy_vit/images'
toy_images = dict(split='train', scene='single', num_images=2000)

_norm = dict(type='BN1d')
model = dict(
    type='SimCLR',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375), to_rgb=True),
    backbone=dict(
        type='VisionTransformer', img_size=64, patch_size=8, out_type='cls_token',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)),
    neck=dict(
        type='NonLinearNeck', in_channels=96, hid_channels=256, out_channels=64,
        with_avg_pool=False, norm_cfg=_norm),
    head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.2))

_view = [
    dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.25, 1.0)),
    # torchvision's: MMPretrain's own ColorJitter fails with NumPy 2.
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
    dict(type='torchvision/RandomGrayscale', p=0.2),
    dict(type='PILToNumpy', to_bgr=True),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root=data_root, with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='MultiView', num_views=2, transforms=[_view]),
            dict(type='PackInputs'),
        ]))

train_cfg = dict(type='IterBasedTrainLoop', max_iters=300)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.04))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=False, begin=50, T_max=250, end=300),
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=300, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
