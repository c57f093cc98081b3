# Cityscapes, UPerNet on ViT-B/16, 768 px, 8 GPUs x 1 image, 80k iterations.
_base_ = [
    'mmseg::_base_/datasets/cityscapes_768x768.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/upernet_vitb.py',
    './_base_/schedule_upernet.py',
]
model = dict(
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(img_size=768),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(crop_size=(768, 768), stride=(512, 512)),
)
train_dataloader = dict(batch_size=1)
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
