"""A step computes only what its losses need, and each result once."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import cotap_mm
from tests.helpers.tiny import build_tiny, make_inputs

BATCH = 3
IMAGES, GLOBALS, LOCALS = 2 * BATCH, 2, 4
PATCHES, LOCAL_PATCHES = 16, 4  # of crops of 32 and 16 pixels in patches of 8


class Counting(TorchDispatchMode):
    """Counts calls of operators and records the size of the largest new tensor."""

    def __init__(self, model):
        super().__init__()
        self.calls = Counter()
        self.largest = 0
        self.there = {each.untyped_storage()._cdata for each in model.state_dict().values()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket._qualified_op_name] += 1
        for each in tree_flatten(made)[0]:
            if isinstance(each, torch.Tensor) and (each.untyped_storage()._cdata not in self.there):
                self.largest = max(self.largest, each.untyped_storage().nbytes())
        return made


def trained(**options):
    torch.manual_seed(0)
    model = build_tiny(**options).train()
    for step in range(2):
        model.loss(make_inputs(BATCH, seed=step))
    return model


def step(model):
    sum(model.loss(make_inputs(BATCH, seed=4)).values()).backward()
    model.teacher.update(model.student, 0.9)


def test_each_result_is_computed_once():
    model = trained()
    with Counting(model) as counting:
        step(model)
    calls = counting.calls
    assert calls['aten::_foreach_lerp_'] == 1
    # Row sums in Sinkhorn, of two branches: three times over a queue and the scores of the step,
    # except for those of the queue in the last round.
    assert calls['aten::mv'] == 2 * (3 * 2 - 1)
    # Global crops of the teacher, then global and local crops of the student; the last two also
    # in the backward pass.
    assert calls['torchvision::roi_align'] == 3
    assert calls['torchvision::_roi_align_backward'] == 2
    # Global crops have the grid of the embeddings. Those of local crops are resized in each step,
    # since the embeddings are trained.
    assert calls['aten::upsample_bicubic2d'] == 1
    assert not calls['aten::nonzero'] and not calls['aten::masked_select']


def test_no_tensor_as_large_as_a_queue_is_allocated():
    model = trained(queue_size=200_000)
    with Counting(model) as counting:
        step(model)
    assert 0 < counting.largest < model.patch_queue.features.nbytes / 4


class HalfPrecision(TorchDispatchMode):
    """Collects the files of the package that compute in half precision."""

    package = Path(cotap_mm.__file__).parent

    def __init__(self):
        super().__init__()
        self.files = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if any(each.itemsize < 4 for each in floats(made)):
            frame = sys._getframe()
            while frame is not None and self.package not in Path(frame.f_code.co_filename).parents:
                frame = frame.f_back
            file = Path(frame.f_code.co_filename).relative_to(self.package)
            self.files.add(file.as_posix())
        return made


def floats(made):
    return [
        x for x in tree_flatten(made)[0] if isinstance(x, torch.Tensor) and x.is_floating_point()
    ]


def test_only_the_networks_compute_in_half_precision():
    model = trained()
    model.monitor_now = True
    with torch.autocast('cpu', dtype=torch.bfloat16), HalfPrecision() as half:
        model.loss(make_inputs(BATCH, seed=4))
    assert half.files == {
        'models/backbones/blocks.py',
        'models/backbones/dino_vit.py',
        'models/heads/prototype_head.py',
        'models/lean_saving.py',
        'models/necks/object_aware_filter.py',
        'ops/attention.py',
    }


def rows_seen(model):
    """Input shapes of each part during a step."""
    seen = {}

    def watch(name, module):
        def note(_, inputs):
            seen.setdefault(name, []).append(tuple(inputs[0].shape[:-1]))

        module.register_forward_pre_hook(note)

    for name in ('student', 'teacher'):
        net = model.network(name)
        watch(f'{name} head patch', net.head['patch'])
        watch(f'{name} head cls', net.head['cls'])
        watch(f'{name} first block', net.backbone.layers[0])
    step(model)
    return seen


def test_forwards_are_shared_and_heads_see_only_what_a_loss_reads():
    both = 2 * IMAGES  # branches
    assert rows_seen(trained()) == {
        'teacher first block': [(both * GLOBALS, 1 + PATCHES)],
        'student first block': [(both * GLOBALS, 1 + PATCHES), (both * LOCALS, 1 + LOCAL_PATCHES)],
        'teacher head patch': [(IMAGES * GLOBALS, PATCHES)],
        'student head patch': [(IMAGES * GLOBALS, PATCHES), (IMAGES * LOCALS, LOCAL_PATCHES)],
        'teacher head cls': [(IMAGES * GLOBALS,)],
        'student head cls': [(IMAGES * GLOBALS,), (IMAGES * LOCALS,)],
    }


def test_a_branch_that_no_loss_reads_is_not_computed():
    seen = rows_seen(trained(losses=dict(patch_ranking=dict(type='PatchRankingLoss'))))
    assert not [name for name in seen if name.endswith('cls')]
    assert seen['teacher first block'] == [(IMAGES * GLOBALS, 1 + PATCHES)]
