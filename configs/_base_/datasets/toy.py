# Toy scenes for both branches; drawn when the run starts.
_base_ = './neighbor_pairs.py'
data_preprocessor = dict(
    type='CoTAPDataPreprocessor', color=dict(hue=0.5, jitter_prob=1.0, gray_prob=0.3, blur_prob=0.0)
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        patch=dict(type='ToyScenes', split='train', scene='scene'),
        crops=dict(
            global_size=64,
            local_size=32,
            num_local=2,
            global_scale=(0.35, 1.0),
            local_scale=(0.1, 0.3),
        ),
    ),
)
