from .monitor_hook import MonitorHook
from .schedule_length_hook import ScheduleLengthHook
from .teacher_hook import TeacherHook

__all__ = ['MonitorHook', 'ScheduleLengthHook', 'TeacherHook']
