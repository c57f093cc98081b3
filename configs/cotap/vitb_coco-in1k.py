# ViT-B/16 from DINO, COCO and ImageNet-1k (the paper): 8 GPUs x 16 images, 210k iterations.
# From iBOT or Mugs the paper trains for 240k, see vitb_coco.py.
_base_ = './vitb_coco.py'
train_dataloader = dict(
    dataset=dict(cls=dict(type='ImageList', root='data/imagenet/train'), cls_neighbors='auto')
)
