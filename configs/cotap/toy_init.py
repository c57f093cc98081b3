# Trains the toy ViT that the demo starts from: from random weights, with the patch and the CLS
# cluster loss only, on toy images of one large object each.
#   python tools/train.py configs/cotap/toy_init.py --seed 0 --work-dir work_dirs/toy_init
#   python tools/convert.py work_dirs/toy_init/iter_350.pth toy_vit.pth --to mmpretrain
_base_ = './demo.py'
model = dict(
    init_cfg=None, losses=dict(patch_ranking=None, cls_neighbor=None, prototype_entropy=None)
)
train_dataloader = dict(dataset=dict(patch=dict(scene='single')))
