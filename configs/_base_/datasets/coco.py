# COCO train2017, unlabeled, for both branches.
_base_ = './folder.py'
train_dataloader = dict(dataset=dict(patch=dict(root='data/coco/train2017')))
