"""Training engine: launching, resuming, optimization, hooks, and checks before the start."""

from __future__ import annotations

from cotap_mm.distributed.fsdp import CoTAPFSDPStrategy

from .hooks import (
    AtomicCheckpointHook,
    CompileHook,
    MonitorHook,
    NonFiniteHook,
    PreemptionHook,
    ScheduleLengthHook,
    TeacherHook,
    compile_networks,
    compile_parts,
)
from .optim.layer_decay import LayerDecayOptimWrapperConstructor
from .optim.param_groups import CoTAPOptimWrapperConstructor
from .optim.wrappers import MixedPrecisionOptimWrapper
from .resume.train_loop import ResumableTrainLoop

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
    'AtomicCheckpointHook',
    'ScheduleLengthHook',
    'TeacherHook',
    'compile_networks',
    'compile_parts',
]
