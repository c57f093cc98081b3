# ViT-S/16 from DINOv3, COCO for both branches: 4 GPUs x 28 images, 240k iterations.
# Not in the paper.
# The weights are under the DINOv3 License.
_base_ = './vits_coco.py'
model = dict(
    backbone=dict(arch='dinov3-small'),
    init_cfg=dict(checkpoint='timm:vit_small_patch16_dinov3.lvd1689m'),
)
