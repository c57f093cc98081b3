"""The module that is imported as ``mmcv._ext`` if MMCV has no compiled operators.

Functions have the names and arguments of the compiled ones. Every other name is a function that
raises an error when it is called, so that importing ``mmcv.ops`` never fails.
"""

from __future__ import annotations

from typing import Any, Callable

from cotap_mm.compat.mmcv_ops.border_align import border_align_backward, border_align_forward
from cotap_mm.compat.mmcv_ops.boxes import bbox_overlaps, nms, nms_match, softnms
from cotap_mm.compat.mmcv_ops.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from cotap_mm.compat.mmcv_ops.deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from cotap_mm.compat.mmcv_ops.losses import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from cotap_mm.compat.mmcv_ops.masked import masked_col2im_forward, masked_im2col_forward
from cotap_mm.compat.mmcv_ops.psamask import psamask_backward, psamask_forward
from cotap_mm.compat.mmcv_ops.roi import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from cotap_mm.compat.mmcv_ops.sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)

__all__ = [
    'bbox_overlaps',
    'border_align_backward',
    'border_align_forward',
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'psamask_backward',
    'psamask_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]


def get_compiler_version() -> str:
    """Name the stand-in where reports of the environment list the compiler."""
    return 'none (stand-in of cotap_mm)'


def get_compiling_cuda_version() -> str:
    """Name the stand-in where reports of the environment list the version of CUDA."""
    return 'none (stand-in of cotap_mm)'


def __getattr__(name: str) -> Callable[..., Any]:
    """Return a function that raises NotImplementedError for operators without a stand-in."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f'mmcv operator {name!r} has no stand-in in cotap_mm; it needs mmcv with compiled '
            'operators (package mmcv, see docs/operators.md)'
        )

    missing.__name__ = missing.__qualname__ = name
    return missing
