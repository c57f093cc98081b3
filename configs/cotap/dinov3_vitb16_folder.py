# ViT-B/16 from DINOv3 on any folder of images, 8 images a step, accumulated 4 times.
#   cotap train dinov3_vitb16_folder --images DIR
# The weights are under the DINOv3 License.
_base_ = './vits_folder.py'
model = dict(
    backbone=dict(arch='dinov3-base'),
    init_cfg=dict(checkpoint='timm:vit_base_patch16_dinov3.lvd1689m'),
)
