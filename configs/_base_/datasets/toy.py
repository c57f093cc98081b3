# Toy scenes for both branches; drawn when the run starts.
data_preprocessor = dict(
    type='CoTAPDataPreprocessor', color=dict(hue=0.5, jitter_prob=1.0, gray_prob=0.3, blur_prob=0.0)
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='VisitSampler'),
    worker_init_fn=dict(type='cotap_mm.start_worker'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='NeighborPairs',
        patch=dict(type='ToyScenes', split='train', scene='scene'),
        neighbors='auto',
        crops=dict(
            global_size=64,
            local_size=32,
            num_local=2,
            global_scale=(0.35, 1.0),
            local_scale=(0.1, 0.3),
        ),
    ),
)
