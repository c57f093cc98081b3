# Your own detection data with masks, Mask R-CNN on ViT-B/16, 1 GPU x 2 images, 12 epochs.
#   DATA_ROOT/images/...           the file names in the json files are relative to it
#   DATA_ROOT/{train,val}.json     annotations in COCO's format
# Set the two variables below, DATA_ROOT also by the environment variable:
#   DATA_ROOT=/my/data/ mim train mmdet configs/downstream/custom_mask-rcnn.py
_base_ = './coco_mask-rcnn.py'
data_root = '{{$DATA_ROOT:data/custom}}'
classes = ('object',)

dataset = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(dataset=dict(dataset, ann_file='train.json'))
val_dataloader = dict(dataset=dict(dataset, ann_file='val.json'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/val.json')
test_evaluator = val_evaluator
model = dict(
    neck=[dict(_base_.pyramid[0], norm_cfg=dict(type='BN')), _base_.pyramid[1]],
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))
    ),
)
