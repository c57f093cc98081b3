from .compile_hook import CompileHook, compile_parts
from .finite_loss_hook import FiniteLossHook
from .monitor_hook import MonitorHook
from .schedule_length_hook import ScheduleLengthHook
from .teacher_hook import TeacherHook

__all__ = [
    'CompileHook', 'FiniteLossHook', 'MonitorHook', 'ScheduleLengthHook', 'TeacherHook',
    'compile_parts'
]
