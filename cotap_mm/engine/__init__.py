"""What depends on time: hooks, parameter groups, precision."""

from __future__ import annotations

from .hooks import (
    CompileHook,
    MonitorHook,
    NonFiniteHook,
    PreemptionHook,
    SafeCheckpointHook,
    ScheduleLengthHook,
    TeacherHook,
    compile_parts,
)
from .layer_decay import LayerDecayOptimWrapperConstructor
from .optim import CoTAPOptimWrapperConstructor, MixedPrecisionOptimWrapper
from .sharding import CoTAPFSDPStrategy
from .train_loop import ResumableTrainLoop

__all__ = [
    'CoTAPFSDPStrategy',
    'CoTAPOptimWrapperConstructor',
    'CompileHook',
    'LayerDecayOptimWrapperConstructor',
    'MixedPrecisionOptimWrapper',
    'MonitorHook',
    'NonFiniteHook',
    'PreemptionHook',
    'ResumableTrainLoop',
    'SafeCheckpointHook',
    'ScheduleLengthHook',
    'TeacherHook',
    'compile_parts',
]
