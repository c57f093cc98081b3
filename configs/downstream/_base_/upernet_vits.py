# UPerNet on CoTAP's ViT-S/16.
_base_ = './upernet_vitb.py'
model = dict(
    backbone=dict(
        arch='deit-small',
        init_cfg=dict(checkpoint='{{$COTAP_CHECKPOINT:work_dirs/vits_coco-in1k/iter_240000.pth}}'),
    ),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 768], channels=384),
    auxiliary_head=dict(in_channels=384),
)
