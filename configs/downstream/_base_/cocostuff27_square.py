# COCO-Stuff-27, resized to squares: 336 px in training, 448 px in testing. A curated list of
# image names: --cfg-options train_dataloader.dataset.ann_file=FILE (and val_, test_ likewise).
_base_ = 'mmseg::_base_/datasets/coco-stuff164k.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='cotap_mm.RandomResizedCropSeg', scale=336),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(448, 448), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=16,
    dataset=dict(type='cotap_mm.COCOStuff27Dataset', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='cotap_mm.COCOStuff27Dataset', pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(type='cotap_mm.COCOStuff27Dataset', pipeline=test_pipeline))
