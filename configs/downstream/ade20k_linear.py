# ADE20K, frozen, linear head, 1 GPU x 128 images, 100k samples (method of the paper).
_base_ = [
    './_base_/ade20k_square.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/linear_vits.py',
    './_base_/schedule_frozen.py',
]
model = dict(decode_head=dict(num_classes=150))
