# CoTAP on the shipped toy ViT: 4 layers, width 96, patch size 8; small heads and memories.
_base_ = './cotap_vit-small-p16.py'
head = dict(hidden_channels=256, out_channels=64)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384
        ),
        img_size=64,
        patch_size=8,
    ),
    neck=dict(num_prototypes=16),
    head=dict(patch=dict(num_clusters=512, **head), cls=dict(num_clusters=512, **head)),
    # The toy ViT's patch similarities lie closer together than those of a large ViT.
    losses=dict(patch_ranking=dict(tau=0.02)),
    memory=dict(
        patch_queue=dict(size=4096, temperature=0.03, per_step=512),
        cls_queue=dict(size=2048, temperature=0.03, per_step=64),
        template_bank=dict(size=256),
    ),
    pairs=dict(pool_sizes=(4, 8)),
    init_cfg=dict(type='PretrainedViT', checkpoint='cotap_mm://toy_vit.pth'),
)
