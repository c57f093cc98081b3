# ViT-S/16 from DINO, COCO and ImageNet-1k (the paper): 4 GPUs x 28 images, 240k iterations.
_base_ = './vits_coco.py'
train_dataloader = dict(
    dataset=dict(cls=dict(type='ImageList', root='data/imagenet/train'), cls_neighbors='auto')
)
