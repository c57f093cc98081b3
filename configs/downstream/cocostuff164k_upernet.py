# COCO-Stuff 164k (171 classes), UPerNet on ViT-B/16, 512 px, 8 GPUs x 2 images, 160k iterations.
_base_ = [
    'mmseg::_base_/datasets/coco-stuff164k.py',
    'mmseg::_base_/default_runtime.py',
    './_base_/upernet_vitb.py',
    './_base_/schedule_upernet.py',
]
model = dict(decode_head=dict(num_classes=171), auxiliary_head=dict(num_classes=171))
train_dataloader = dict(batch_size=2)
