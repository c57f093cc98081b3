# ViT-L/16 from DINOv3 on any folder of images, 4 images a step, accumulated 8 times.
#   cotap train dinov3_vitl16_folder --images DIR
# The weights are under the DINOv3 License.
_base_ = './vits_folder.py'
model = dict(
    backbone=dict(arch='dinov3-large'),
    init_cfg=dict(checkpoint='timm:vit_large_patch16_dinov3.lvd1689m'),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(accumulative_counts=8)
auto_scale_lr = dict(base_batch_size=4)
