from .compile_hook import CompileHook, compile_parts
from .finite_loss_hook import FiniteLossHook
from .monitor_hook import MonitorHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .schedule_length_hook import ScheduleLengthHook
from .teacher_hook import TeacherHook

__all__ = [
    'CompileHook', 'FiniteLossHook', 'MonitorHook', 'SafeCheckpointHook', 'ScheduleLengthHook',
    'TeacherHook', 'compile_parts'
]
