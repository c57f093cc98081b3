# Parts of every classifier: CoTAP's ViT with patches of 16 px, and a linear layer on its CLS token.
custom_imports = dict(imports=['cotap_mm'])  # makes --resume work on torch >= 2.6
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='cotap_mm.CoTAPViT',
        patch_size=16,
        out_type='cls_token',
        init_cfg=dict(type='cotap_mm.PretrainedViT'),
    ),
    head=dict(type='LinearClsHead', num_classes=1000),
)
