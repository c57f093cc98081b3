# What every run shares: hooks, logs, seeds.
default_scope = 'cotap_mm'

# A leaf config changes one option: default_hooks = dict(teacher=dict(start=0.99)).
default_hooks = dict(
    runtime_info=dict(type='DeferredInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Saves every 5,000 iterations, at the latest after 30 minutes, and at the end.
    checkpoint=dict(
        type='AtomicCheckpointHook',
        by_epoch=False,
        interval=5000,
        interval_minutes=30,
        max_keep_ckpts=2,
        # With an EvaluationHook: its first score, unless the initial weights are better.
        save_best='auto',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    non_finite=dict(type='NonFiniteHook'),
    teacher=dict(type='TeacherHook', start=0.9997, end=0.9999),
    monitor=dict(type='MonitorHook', interval=50),
    schedule_length=dict(type='ScheduleLengthHook'),
    preemption=dict(type='PreemptionHook'),
    before_after=dict(type='BeforeAfterHook'),
)

log_processor = dict(by_epoch=False, window_size=50)
# cotap train adds TensorBoard if it is installed; --log wandb, mlflow or none changes that.
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmengine.Visualizer', vis_backends=vis_backends)
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=0)
log_level = 'INFO'
load_from = None
resume = False
