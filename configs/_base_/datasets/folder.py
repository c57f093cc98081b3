# Any folder of images feeds both branches: --images DIR.
data_preprocessor = dict(type='CoTAPDataPreprocessor')
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='VisitSampler'),
    worker_init_fn=dict(type='cotap_mm.start_worker'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='NeighborPairs',
        patch=dict(type='ImageList', root='data/images'),
        neighbors='auto',
        num_neighbors=7,
        crops=dict(global_size=224, local_size=96, num_local=4),
    ),
)
