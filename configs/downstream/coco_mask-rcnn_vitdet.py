# COCO, ViTDet's Mask R-CNN on ViT-B/16: windows of 14, simple feature pyramid,
# large-scale jitter at 1024 px, 32 GPUs x 2 images, 100 epochs.
# Differs from https://arxiv.org/abs/2203.16527: no relative position embeddings.
_base_ = ['mmdet::common/lsj-100e_coco-instance.py', './_base_/mask-rcnn_vitb.py']
norm_cfg = dict(type='mmpretrain.LN2d')
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)]
    ),
    backbone=dict(
        img_size=1024,
        out_indices=(11,),
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(
        _delete_=True, type='cotap_mm.SimpleFeaturePyramid', in_channels=1536, out_channels=256
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type='cotap_mm.MixedPrecisionOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='cotap_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
