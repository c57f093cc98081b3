# VOC 2012, frozen, FCN head, 1 GPU x 128 images, 400k samples (method of the paper).
_base_ = [
    './_base_/voc_square.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/fcn_vits.py',
    './_base_/schedule_frozen_fcn.py',
]

# This protocol tests VOC at the training size.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(336, 336), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
