# VOC 2012 trainaug -> val, resized to squares.
_base_ = ['mmseg::_base_/datasets/pascal_voc12_aug.py', './square_336.py']
train_dataloader = dict(
    batch_size=128,
    num_workers=16,
    dataset=dict(
        datasets=[
            dict(_base_.dataset_train, pipeline=_base_.square_train),
            dict(_base_.dataset_aug, pipeline=_base_.square_train),
        ]
    ),
)
val_dataloader = dict(dataset=dict(pipeline=_base_.square_test))
test_dataloader = val_dataloader
