"""Tensor functions of the method, without state.

:mod:`.nearest` is not re-exported here: it can search with faiss, on the CPU and through numpy, and
returns search functions that hold an index.
"""

from __future__ import annotations

from cotap_mm.distributed.collectives import (
    all_reduce_max,
    all_reduce_min,
    all_reduce_sum,
    broadcast,
    gather_rows,
    rank,
    world_size,
)
from cotap_mm.ops.ranking.average_precision import (
    concordant_rank,
    continuous_average_precision,
    discordance,
    rank_statistics,
)

from .attention import cls_attention, cls_through_block, patch_tokens, qkv_parameters
from .boxes import common_boxes, roi_pool
from .color import (
    COLOR_DEFAULTS,
    COLOR_DRAWS,
    COLOR_RULES,
    ColorPlan,
    apply_color,
    augment_color,
    plan_color,
)
from .foreground import foreground_mask, local_median, outlying_norms
from .negatives import sample_negatives
from .position import resize_position_embedding
from .precision import at_least_float32
from .rotary import Rotation, patch_rotation, rotate_patches
from .sampling import copy_together, pinned
from .sinkhorn import balance, sinkhorn
from .spherical_kmeans import spherical_kmeans

__all__ = [
    'COLOR_DEFAULTS',
    'COLOR_DRAWS',
    'COLOR_RULES',
    'ColorPlan',
    'Rotation',
    'all_reduce_max',
    'all_reduce_min',
    'all_reduce_sum',
    'apply_color',
    'at_least_float32',
    'augment_color',
    'balance',
    'broadcast',
    'cls_attention',
    'cls_through_block',
    'common_boxes',
    'concordant_rank',
    'continuous_average_precision',
    'copy_together',
    'discordance',
    'foreground_mask',
    'gather_rows',
    'local_median',
    'outlying_norms',
    'patch_rotation',
    'patch_tokens',
    'pinned',
    'plan_color',
    'qkv_parameters',
    'rank',
    'rank_statistics',
    'resize_position_embedding',
    'roi_pool',
    'rotate_patches',
    'sample_negatives',
    'sinkhorn',
    'spherical_kmeans',
    'world_size',
]
