# ADE20K, UPerNet on ViT-S/16, 512 px, 4 GPUs x 4 images, 160k iterations.
# iBOT's recipe (https://github.com/bytedance/ibot), with which iBOT ViT-S has 45.4 mIoU.
_base_ = [
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/upernet_vits.py',
    './_base_/schedule_upernet.py',
]
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
train_dataloader = dict(batch_size=4)
