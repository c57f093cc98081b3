# Cityscapes, frozen, linear head, 1 GPU x 64 images, 100k samples (method of the paper).
_base_ = [
    './_base_/cityscapes_square.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/linear_vits.py',
    './_base_/schedule_frozen.py',
]
model = dict(data_preprocessor=dict(size=(896, 896)), decode_head=dict(num_classes=19))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=1563, val_interval=1563)
