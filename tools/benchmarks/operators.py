"""The stand-in for MMCV's operators, against the compiled ones where there are any."""

from __future__ import annotations

import argparse
import importlib
import itertools
from types import ModuleType
from typing import Any, Callable, NamedTuple, Optional

import torch
from torch import Tensor, nn

from cotap_mm.compat.mmcv_ops import extension as stand_in

from . import measuring


class Case(NamedTuple):
    """One operator on inputs of a usual size.

    Attributes:
        module (str): The module of ``mmcv.ops`` that calls the operator.
        work (callable): The operator as a function of ``tensors``.
        tensors (list[Tensor]): Inputs; gradients are computed for those that require them.
    """

    module: str
    work: Callable[..., Any]
    tensors: list[Tensor]


def _boxes(count: int, device: str) -> Tensor:
    corner = torch.rand(count, 2, device=device) * 600
    return torch.cat([corner, corner + torch.rand(count, 2, device=device) * 200 + 1], dim=1)


def _rois(count: int, device: str) -> Tensor:
    image = torch.arange(count, device=device)[:, None] % 2
    return torch.cat([image, _boxes(count, device)], dim=1)


def _box_cases(ops: ModuleType, device: str) -> dict[str, Case]:
    boxes, scores = _boxes(2000, device), torch.rand(2000, device=device)
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    return {
        'nms': Case('nms', lambda b, s: ops.nms(b, s, 0.5)[1], [boxes, scores]),
        'softnms': Case(
            'nms', lambda b, s: ops.soft_nms(b, s, 0.5)[0], [boxes[:500], scores[:500]]
        ),
        'nms_match': Case('nms', lambda d: torch.cat(ops.nms_match(d, 0.5)), [dets]),
        'bbox_overlaps': Case('bbox', ops.bbox_overlaps, [boxes, boxes[:200]]),
    }


def _region_cases(ops: ModuleType, device: str) -> dict[str, Case]:
    features, rois = torch.rand(2, 64, 50, 76, device=device), _rois(200, device)
    shift = torch.randn(200, 2, 7, 7, device=device)
    borders = _boxes(400, device).view(2, 200, 4) / 16
    return {
        'roi_align': Case(
            'roi_align', lambda f: ops.roi_align(f, rois, 7, 1 / 16, 0, 'avg', True), [features]
        ),
        'roi_pool': Case('roi_pool', lambda f: ops.roi_pool(f, rois, 7, 1 / 16), [features]),
        'deform_roi_pool': Case(
            'deform_roi_pool',
            lambda f, s: ops.deform_roi_pool(f, rois, s, 7, 1 / 16, 2),
            [features, shift],
        ),
        'border_align': Case(
            'border_align', lambda f: ops.border_align(f, borders, 10), [features]
        ),
    }


def _deformable_cases(ops: ModuleType, device: str) -> dict[str, Case]:
    x, weight = torch.rand(2, 64, 40, 60, device=device), torch.rand(64, 64, 3, 3, device=device)
    offset = torch.randn(2, 18, 40, 60, device=device)
    mask, bias = torch.rand(2, 9, 40, 60, device=device), torch.rand(64, device=device)
    shapes = torch.tensor([[40, 60], [20, 30], [10, 15], [5, 8]], device=device)
    sizes = shapes.prod(dim=1)
    starts = sizes.cumsum(0) - sizes
    value = torch.rand(2, int(sizes.sum()), 8, 16, device=device)
    points = torch.rand(2, 300, 8, 4, 4, 2, device=device)
    weights = torch.rand(2, 300, 8, 4, 4, device=device)
    attention = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
    attend = attention.MultiScaleDeformableAttnFunction.apply
    return {
        'deform_conv': Case(
            'deform_conv', lambda *each: ops.deform_conv2d(*each, 1, 1), [x, offset, weight]
        ),
        'modulated_deform_conv': Case(
            'modulated_deform_conv',
            lambda *each: ops.modulated_deform_conv2d(*each, 1, 1),
            [x, offset, mask, weight, bias],
        ),
        'ms_deform_attn': Case(
            'multi_scale_deform_attn',
            lambda v, p, w: attend(v, shapes, starts, p, w, 64),
            [value, points, weights],
        ),
    }


def _other_cases(ops: ModuleType, device: str) -> dict[str, Case]:
    logits, target = torch.randn(20000, 20, device=device), torch.randint(0, 20, (20000,))
    target = target.to(device)
    features = torch.rand(1, 64, 40, 60, device=device)
    masks = torch.rand(1, 25, 80, 120, device=device)
    chosen = (torch.rand(1, 40, 60, device=device) > 0.5).float()
    kernel, bias = torch.rand(64, 64, 3, 3, device=device), torch.rand(64, device=device)
    psa = importlib.import_module('mmcv.ops.psa_mask').psa_mask
    normalize = importlib.import_module('mmcv.ops.sync_bn').SyncBatchNormFunction.apply
    mean, variance = torch.zeros(64, device=device), torch.ones(64, device=device)
    return {
        'sigmoid_focal_loss': Case(
            'focal_loss', lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25), [logits]
        ),
        'softmax_focal_loss': Case(
            'focal_loss',
            lambda x: ops.softmax_focal_loss(x, target, 2.0, 0.25, None, 'mean'),
            [logits],
        ),
        'carafe': Case('carafe', lambda f, m: ops.carafe(f, m, 5, 1, 2), [features, masks]),
        'carafe_naive': Case(
            'carafe',
            lambda f, m: ops.carafe_naive(f, m, 5, 1, 2),
            [features.detach(), masks.detach()],
        ),
        'masked_conv': Case(
            'masked_conv', lambda f: ops.masked_conv2d(f, chosen, kernel, bias, 1), [features]
        ),
        'psamask': Case(
            'psa_mask', lambda m: psa(m, 0, (23, 23)), [torch.rand(1, 23 * 23, 12, 12).to(device)]
        ),
        'sync_bn': Case(
            'sync_bn',
            lambda x, w, b: normalize(
                x, mean.clone(), variance.clone(), w, b, 0.1, 1e-5, None, 1, 'default'
            ),
            [features, nn.Parameter(torch.ones(64, device=device)), bias.clone()],
        ),
    }


#: Operators whose result has no gradient, and those whose backward pass MMCV has on a GPU only.
FORWARD_ONLY = {'nms', 'softnms', 'nms_match', 'bbox_overlaps', 'masked_conv', 'carafe_naive'}


def make_cases(device: str) -> dict[str, Case]:
    """Build all cases on a device, from a fixed seed."""
    torch.manual_seed(0)
    ops = importlib.import_module('mmcv.ops')
    parts = (_box_cases, _region_cases, _deformable_cases, _other_cases)
    return dict(itertools.chain(*(part(ops, device).items() for part in parts)))


def make(case: Case, extension: ModuleType, backward: bool) -> Callable[[], Tensor]:
    """Return work that calls one extension; it returns its output, or the sum of gradients."""
    module = importlib.import_module(f'mmcv.ops.{case.module}')

    def work() -> Tensor:
        module.ext_module = extension  # type: ignore[attr-defined]
        leaves = [each.detach().requires_grad_(backward) for each in case.tensors]
        output = case.work(*leaves)
        if not backward:
            return output
        return torch.cat([g.flatten() for g in torch.autograd.grad(output.sum(), leaves)])

    return work


def compiled_extension() -> Optional[ModuleType]:
    """Find MMCV's compiled operators; None with mmcv-lite."""
    extension = importlib.import_module('mmcv._ext')
    return None if hasattr(extension, '__all__') else extension


def _works(case: Case, backward: bool) -> tuple[dict[str, Callable[[], Tensor]], Optional[Tensor]]:
    """Work of both extensions, and the result of the compiled one if it runs on this device."""
    works = {'stand-in': make(case, stand_in, backward)}
    compiled = compiled_extension()
    if compiled is None:
        return works, None
    work = make(case, compiled, backward)
    try:
        expected = work()
    except (RuntimeError, AssertionError):  # no kernel for this device
        return works, None
    return {'compiled': work, **works}, expected


def _row(name: str, case: Case, backward: bool, runs: int, device: str) -> dict[str, Any]:
    works, expected = _works(case, backward)
    found = works['stand-in']()
    times = measuring.take_turns(works, runs, 1, device)
    row = {
        'operator': name,
        'passes': 'forward + backward' if backward else 'forward',
        'ms': round(1e3 * times['stand-in'].median, 2),
        'spread': f'{times["stand-in"].spread:.0%}',
    }
    if expected is not None:
        gap = (found.double() - expected.double()).abs().max() / expected.abs().max()
        row['compiled ms'] = round(1e3 * times['compiled'].median, 2)
        row['compiled spread'] = f'{times["compiled"].spread:.0%}'
        row['times slower'] = round(times['stand-in'].median / times['compiled'].median, 2)
        row['largest relative difference'] = f'{float(gap):.0e}'
    return row


def run(args: argparse.Namespace) -> None:
    cases = make_cases(args.device)
    unknown = set(args.operators or ()) - set(cases)
    if unknown:
        raise ValueError(f'unknown operators {sorted(unknown)}; choose from {", ".join(cases)}')
    rows = []
    for name in args.operators or cases:
        for backward in (False,) if name in FORWARD_ONLY else (False, True):
            rows.append(_row(name, cases[name], backward, args.runs, args.device))
    measuring.report(
        "Stand-in for MMCV's operators",
        rows,
        args.device,
        args.json,
        dtype='float32',
        threads=torch.get_num_threads(),
        runs=args.runs,
    )
