# Images with their nearest neighbors, as pre-training reads them from every source.
train_dataloader = dict(
    drop_last=True,
    sampler=dict(type='VisitSampler'),
    worker_init_fn=dict(type='cotap_mm.start_worker'),
    collate_fn=dict(type='cotap_mm.collate_samples'),
    dataset=dict(type='NeighborPairs', neighbors='auto', crop_on='auto'),
)
