"""What depends on time: hooks, parameter groups, precision."""
from .hooks import MonitorHook, ScheduleLengthHook, TeacherHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .optim import CoTAPOptimWrapperConstructor, MixedPrecisionOptimWrapper

__all__ = [
    'CoTAPOptimWrapperConstructor', 'LayerDecayOptimWrapperConstructor',
    'MixedPrecisionOptimWrapper', 'MonitorHook', 'ScheduleLengthHook', 'TeacherHook'
]
