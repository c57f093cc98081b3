# COCO-Stuff-27, frozen, FCN head, 1 GPU x 128 images, 400k samples (method of the paper).
_base_ = [
    './_base_/cocostuff27_square.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/fcn_vits.py',
    './_base_/schedule_frozen_fcn.py',
]
model = dict(decode_head=dict(num_classes=27))
train_dataloader = dict(batch_size=128)
