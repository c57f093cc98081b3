# FCN protocol: 400k samples, the learning rate falls from 3e-3 to 1e-4.
_base_ = './schedule_frozen.py'
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=1e-4, by_epoch=False)]
train_cfg = dict(max_iters=3125, val_interval=3125)
default_hooks = dict(checkpoint=dict(interval=625))
