# ViT-B/16 from DINOv3, COCO for both branches: 8 GPUs x 16 images, 210k iterations.
# Not in the paper.
# The weights are under the DINOv3 License.
_base_ = './vitb_coco.py'
model = dict(
    backbone=dict(arch='dinov3-base'),
    init_cfg=dict(checkpoint='timm:vit_base_patch16_dinov3.lvd1689m'),
)
