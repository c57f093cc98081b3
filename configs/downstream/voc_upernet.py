# VOC 2012 (trainaug), UPerNet on ViT-B/16, 512 px, 8 GPUs x 2 images, 40k iterations.
_base_ = [
    'mmseg::_base_/datasets/pascal_voc12_aug.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/upernet_vitb.py',
    './_base_/schedule_upernet.py',
]
model = dict(decode_head=dict(num_classes=21), auxiliary_head=dict(num_classes=21))
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
