# CoTAP on a ViT-B/8.
_base_ = './vit-base-p16.py'
model = dict(backbone=dict(patch_size=8))
