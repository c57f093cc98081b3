# 1 x 1 convolution on the filter's output of a frozen ViT-S/16.
# ViT-B: --cfg-options model.backbone.arch=deit-base model.decode_head.in_channels=1536
#        model.decode_head.channels=1536
custom_imports = dict(imports=['cotap_mm.downstream'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=(336, 336),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='cotap_mm.CoTAPViT',
        arch='deit-small',
        patch_size=16,
        frozen_stages=12,
        init_cfg=dict(
            type='cotap_mm.PretrainedViT',
            checkpoint='{{$COTAP_CHECKPOINT:work_dirs/vits_coco-in1k/iter_240000.pth}}',
        ),
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
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
