# Parts of every detector: CoTAP's ViT-B/16 with four levels, scaled to strides 4 to 32, and FPN.
custom_imports = dict(imports=['cotap_mm'])  # makes --resume work on torch >= 2.6
vit = dict(
    _delete_=True,
    type='cotap_mm.CoTAPViT',
    arch='deit-base',
    patch_size=16,
    img_size=(800, 1008),
    out_indices=(3, 5, 7, 11),
    drop_path_rate=0.2,
    with_cp=True,
    init_cfg=dict(
        type='cotap_mm.PretrainedViT',
        checkpoint='{{$COTAP_CHECKPOINT:work_dirs/vitb_coco-in1k/iter_210000.pth}}',
    ),
)
pyramid = [
    dict(
        type='mmseg.Feature2Pyramid',
        embed_dim=768,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=dict(type='SyncBN'),
    ),
    dict(type='FPN', in_channels=[768, 768, 768, 1536], out_channels=256, num_outs=5),
]
