# The paper's frozen protocols: Adam on the head alone; 782 steps of 128 images are 100k samples.
_base_ = './schedule_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=3e-3))
param_scheduler = []
train_cfg = dict(max_iters=782, val_interval=782)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=391))
