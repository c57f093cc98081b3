# Mask R-CNN on CoTAP's ViT-B/16.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './vitb_pyramid.py']
model = dict(backbone=_base_.vit, neck=_base_.pyramid)
