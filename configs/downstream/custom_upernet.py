# Your own segmentation data, UPerNet on ViT-B/16, 512 px, 1 GPU x 4 images, 40k iterations.
#   DATA_ROOT/images/{train,val}/NAME.jpg
#   DATA_ROOT/labels/{train,val}/NAME.png   one class index per pixel, 255 for unlabeled
# Set the two variables below, DATA_ROOT also by the environment variable:
#   DATA_ROOT=/my/data mim train mmseg configs/downstream/custom_upernet.py
_base_ = './ade20k_upernet.py'
data_root = '{{$DATA_ROOT:data/custom}}'
classes = ('background', 'object')

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='PackSegInputs'),
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=False,
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
model = dict(
    decode_head=dict(num_classes=len(classes), norm_cfg=dict(type='BN')),
    auxiliary_head=dict(num_classes=len(classes), norm_cfg=dict(type='BN')),
    neck=dict(norm_cfg=dict(type='BN')),
)
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
