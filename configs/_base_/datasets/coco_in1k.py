# COCO train2017 for patches, ImageNet-1k train for CLS, both unlabelled.
_base_ = './coco.py'
train_dataloader = dict(
    dataset=dict(cls=dict(type='ImageList', root='data/imagenet/train'), cls_neighbors='auto')
)
