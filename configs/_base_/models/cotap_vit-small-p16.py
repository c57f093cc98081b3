# CoTAP on a ViT-S/16; widths of neck and heads follow from the backbone.
model = dict(
    type='CoTAP',
    backbone=dict(type='DINOViT', arch='deit-small', img_size=224, patch_size=16),
    neck=dict(type='ObjectAwareFilter', num_prototypes=64),
    head=dict(
        patch=dict(type='PrototypeHead', num_clusters=512),
        cls=dict(type='PrototypeHead', num_clusters=4096),
    ),
    losses=dict(
        patch_cluster=dict(type='PatchClusterLoss', temperature=0.1),
        cls_cluster=dict(type='ClsClusterLoss', temperature=0.1),
        patch_ranking=dict(type='PatchRankingLoss', tau=0.5, threshold=-0.2, negative_weight=0.1),
        cls_neighbor=dict(type='NeighborClusterLoss', temperature=0.2),
        prototype_entropy=dict(type='PrototypeEntropyLoss', temperature=0.1),
    ),
    memory=dict(  # queue sizes are over all GPUs, per_step is for one
        patch_queue=dict(size=262144, temperature=0.05, per_step=2048),
        cls_queue=dict(size=32768, temperature=0.07, per_step=100),
        template_bank=dict(size=1024, per_step=32),
    ),
    pairs=dict(pool_sizes=(7, 14), topk=5, num_negatives=5),
)
