"""What depends on time: hooks, parameter groups, precision."""
from .hooks import MonitorHook, ScheduleLengthHook, TeacherHook
from .optim import CoTAPOptimWrapperConstructor, MixedPrecisionOptimWrapper

__all__ = [
    'CoTAPOptimWrapperConstructor', 'MixedPrecisionOptimWrapper', 'MonitorHook',
    'ScheduleLengthHook', 'TeacherHook'
]
