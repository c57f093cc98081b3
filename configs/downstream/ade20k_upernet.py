# ADE20K, UPerNet on ViT-B/16, 512 px, 8 GPUs x 2 images, 160k iterations.
# iBOT's recipe (https://github.com/bytedance/ibot), with which iBOT ViT-B has 50.0 mIoU.
_base_ = [
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/upernet_vitb.py',
    './_base_/schedule_upernet.py',
]
train_dataloader = dict(batch_size=2)
