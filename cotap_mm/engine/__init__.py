"""What depends on time: hooks, parameter groups, precision."""
from .hooks import (
    CompileHook,
    FiniteLossHook,
    MonitorHook,
    SafeCheckpointHook,
    ScheduleLengthHook,
    TeacherHook,
    compile_parts,
)
from .layer_decay import LayerDecayOptimWrapperConstructor
from .optim import CoTAPOptimWrapperConstructor, MixedPrecisionOptimWrapper
from .train_loop import ResumableTrainLoop

__all__ = [
    'CoTAPOptimWrapperConstructor', 'CompileHook', 'FiniteLossHook',
    'LayerDecayOptimWrapperConstructor', 'MixedPrecisionOptimWrapper', 'MonitorHook',
    'ResumableTrainLoop', 'SafeCheckpointHook', 'ScheduleLengthHook', 'TeacherHook', 'compile_parts'
]
