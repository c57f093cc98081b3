# 1 x 1 convolution on the filter's output of a frozen ViT-S/16.
# ViT-B: --cfg-options model.backbone.arch=deit-base model.decode_head.in_channels=1536
#        model.decode_head.channels=1536
_base_ = './segmentor_vit.py'
custom_imports = dict(imports=['cotap_mm.downstream'])
model = dict(
    data_preprocessor=dict(size=(336, 336)),
    backbone=dict(
        arch='deit-small',
        frozen_stages=12,
        init_cfg=dict(checkpoint='{{$COTAP_CHECKPOINT:work_dirs/vits_coco-in1k/iter_240000.pth}}'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=768,
        channels=768,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=21,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)
