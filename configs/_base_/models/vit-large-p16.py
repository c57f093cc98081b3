# CoTAP on a ViT-L/16.
_base_ = './vit-small-p16.py'
model = dict(backbone=dict(arch='large', with_cp=True))
