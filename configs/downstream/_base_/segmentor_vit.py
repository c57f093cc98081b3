# Parts of every segmentor: ImageNet's color statistics, and CoTAP's ViT with patches of 16 px.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='cotap_mm.CoTAPViT', patch_size=16, init_cfg=dict(type='cotap_mm.PretrainedViT')
    ),
    train_cfg=dict(),
)
