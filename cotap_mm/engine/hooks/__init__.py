"""Hooks of MMEngine's Runner: everything that depends on the time in a training.

:class:`cotap_mm.evaluation.hook.EvaluationHook` is not here, because it runs the protocols and
needs only them: ``cotap_mm.evaluation`` can be used, and imported, without the training engine.
"""

from __future__ import annotations

from .atomic_checkpoint_hook import AtomicCheckpointHook, last_checkpoint
from .before_after_hook import BeforeAfterHook
from .compile_hook import CompileHook, compile_networks, compile_parts
from .deferred_info_hook import DeferredInfoHook
from .loop_preemption_hook import LoopPreemptionHook
from .loss_weight_hook import LossWeightHook
from .monitor_hook import MonitorHook
from .non_finite_hook import NonFiniteHook
from .preemption_hook import EXIT_STATUS, PreemptionHook, stopped_by, was_preempted
from .schedule_length_hook import ScheduleLengthHook
from .teacher_hook import TeacherHook

__all__ = [
    'EXIT_STATUS',
    'BeforeAfterHook',
    'CompileHook',
    'DeferredInfoHook',
    'LoopPreemptionHook',
    'LossWeightHook',
    'MonitorHook',
    'NonFiniteHook',
    'PreemptionHook',
    'AtomicCheckpointHook',
    'ScheduleLengthHook',
    'TeacherHook',
    'compile_networks',
    'compile_parts',
    'last_checkpoint',
    'stopped_by',
    'was_preempted',
]
