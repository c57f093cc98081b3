# CoTAP on a ViT-B/16.
_base_ = './cotap_vit-small-p16.py'
model = dict(backbone=dict(arch='deit-base'))
