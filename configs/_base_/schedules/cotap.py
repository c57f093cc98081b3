# The paper's optimization: AdamW, cosine learning rate and weight decay, no warm-up.
train_cfg = dict(type='ResumableTrainLoop', max_iters=240_000)

optim_wrapper = dict(
    type='MixedPrecisionOptimWrapper',
    constructor='CoTAPOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=3e-5, weight_decay=0.024, betas=(0.9, 0.999)),
    paramwise_cfg=dict(head_lr_mult=10),
)  # heads: 3e-4

# Both end at max_iters (ScheduleLengthHook).
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=3e-6, by_epoch=False),
    dict(type='mmpretrain.CosineAnnealingWeightDecay', eta_min=0.24, by_epoch=False),
]
