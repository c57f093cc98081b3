# COCO-Stuff-27, frozen, linear head, 1 GPU x 256 images, 100k samples (method of the paper).
_base_ = [
    './_base_/cocostuff27_square.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/linear_vits.py',
    './_base_/schedule_frozen.py',
]
model = dict(decode_head=dict(num_classes=27))
train_cfg = dict(max_iters=391, val_interval=391)
