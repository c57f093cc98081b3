# Any folder of images feeds both branches: --images DIR.
_base_ = './neighbor_pairs.py'
data_preprocessor = dict(type='CoTAPDataPreprocessor')
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        patch=dict(type='ImageList', root='data/images'),
        num_neighbors=7,
        crops=dict(global_size=224, local_size=96, num_local=4),
    ),
)
