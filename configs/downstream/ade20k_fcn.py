# ADE20K, frozen, FCN head, 1 GPU x 128 images, 400k samples (method of the paper).
_base_ = [
    './_base_/ade20k_square.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/fcn_vits.py',
    './_base_/schedule_frozen_fcn.py',
]
model = dict(decode_head=dict(num_classes=150))
