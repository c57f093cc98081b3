# Raccoons on a CPU: what configs/downstream/raccoon_mask-rcnn.py starts from, minutes on two cores.
#   RACCOON=DIR python tools/train.py configs/cotap/raccoon_toy.py
_base_ = './camvid_toy.py'
root = '{{$RACCOON:data/raccoon}}'  # images/ and train.json
train_dataloader = dict(
    dataset=dict(patch=dict(root=root + '/images', ann_file=root + '/train.json'))
)
custom_hooks = []  # no labels to evaluate on
