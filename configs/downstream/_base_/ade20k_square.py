# ADE20K, resized to squares.
_base_ = ['mmseg::_base_/datasets/ade20k.py', './square_336.py']
train_dataloader = dict(batch_size=128, num_workers=16, dataset=dict(pipeline=_base_.square_train))
val_dataloader = dict(dataset=dict(pipeline=_base_.square_test))
test_dataloader = val_dataloader
