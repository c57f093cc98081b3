# COCO-Stuff-27, resized to squares. A curated list (a text file with one image name per line,
# without suffix; the path is absolute or relative to data_root):
# --cfg-options train_dataloader.dataset.ann_file=FILE (and val_dataloader..., test_dataloader...).
_base_ = ['mmseg::_base_/datasets/coco-stuff164k.py', './square_336.py']
train_dataloader = dict(
    batch_size=256,
    num_workers=16,
    dataset=dict(type='cotap_mm.COCOStuff27Dataset', pipeline=_base_.square_train),
)
val_dataloader = dict(dataset=dict(type='cotap_mm.COCOStuff27Dataset', pipeline=_base_.square_test))
test_dataloader = val_dataloader
