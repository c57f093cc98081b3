"""All numbers of a step go to the device in one copy; they are those drawn one by one."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from cotap_mm.models import CoTAPDataPreprocessor
from tests.helpers.no_waiting import WorkOnMeta
from tests.helpers.tiny import LOSSES, build_tiny, make_inputs

BATCH, GLOBALS, LOCALS, SIDES = 3, 2, 4, (32, 16)
SHAPES = dict.fromkeys(('patch', 'cls'), (2 * BATCH, GLOBALS, SIDES[0]))
#: Operations on the device that prepare a batch, whatever its size; views are not counted.
KERNELS = 227


def ready_model(losses=None, steps=3):
    """Model whose prototypes have started after 3 steps, with color augmentation."""
    torch.manual_seed(0)
    model = build_tiny(losses and {name: LOSSES[name] for name in losses}).train()
    model.init_weights()
    for step in range(steps):
        model.loss(make_inputs(BATCH, seed=step))
    model.data_preprocessor.color = CoTAPDataPreprocessor().color
    return model


def make_batch(size=BATCH):
    def branch():
        low = torch.rand(size, 2, GLOBALS + LOCALS, 2) * 10
        crops = {
            f'{kind}_crops': torch.zeros(size, 2, count, side, side, 3, dtype=torch.uint8)
            for kind, count, side in zip(('global', 'local'), (GLOBALS, LOCALS), SIDES)
        }
        return dict(crops, boxes=torch.cat([low, low + 20], dim=-1))

    return dict(patch=branch(), cls=branch())


def on_meta(model, monkeypatch):
    model = model.to('meta')
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())  # does not support meta
    return model, WorkOnMeta(*model.parameters(), *model.buffers())


def test_a_step_copies_its_crops_and_one_buffer(monkeypatch):
    model, mode = on_meta(ready_model(), monkeypatch)
    batch = make_batch()
    with mode:
        inputs = model.data_preprocessor(batch, training=True)['inputs']
        assert len(inputs['draws']) == 5  # two orders, keys, negatives for two sizes
        sum(model.loss(inputs).values()).backward()
        model.teacher.update(model.student, 0.9)
    assert all(each.dtype == torch.uint8 for each in mode.copies)
    assert sorted(each.ndim for each in mode.copies) == [1, 6, 6, 6, 6]
    assert not model.draws._held  # nothing was drawn in vain

    with mode:  # the copies are seen
        model.draws.order('cls_queue', 3).to('meta', non_blocking=True)
    assert len(mode.copies) == 6


def test_before_the_prototypes_start_numbers_are_drawn_when_needed(monkeypatch):
    model, mode = on_meta(ready_model(steps=2), monkeypatch)
    batch = make_batch()
    with mode:
        assert model.data_preprocessor(batch, training=True)['inputs']['draws'] == {}
    assert len(mode.copies) == 5


@pytest.mark.parametrize('size', [2, 5])
def test_operations_that_prepare_a_batch(monkeypatch, size):
    model, mode = on_meta(ready_model(), monkeypatch)
    torch.manual_seed(1)
    batch = make_batch(size)
    for branch in batch.values():  # all of jitter, gray and blur
        branch['color_draws'] = torch.rand(size, 2, GLOBALS + LOCALS, 12)
    with mode:
        model.data_preprocessor(batch, training=True)
    assert sum(mode.kernels.values()) == KERNELS, mode.kernels


@pytest.mark.parametrize(
    'losses', [None, ['patch_ranking'], ['cls_neighbor', 'patch_cluster'], ['prototype_entropy']]
)
def test_numbers_drawn_ahead_are_those_of_the_step(losses):
    model = ready_model(losses)
    twin = copy.deepcopy(model)
    assert twin.data_preprocessor.draw_ahead.__self__ is twin
    inputs = make_inputs(BATCH, seed=9)
    torch.manual_seed(5)
    wanted, state = model.loss(inputs), torch.get_rng_state()
    torch.manual_seed(5)
    draws = twin.draw_ahead(SHAPES)
    assert draws and torch.equal(torch.get_rng_state(), state)
    got = twin.loss(dict(inputs, draws=draws))
    assert torch.equal(torch.get_rng_state(), state) and not twin.draws._held
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    ours, theirs = model.state_dict(), twin.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_step_of_other_sizes_draws_for_itself():
    model, inputs = ready_model(), make_inputs(BATCH, seed=9)
    draws = model.draw_ahead(dict.fromkeys(SHAPES, (2, 1, 16)))
    torch.manual_seed(5)
    got = copy.deepcopy(model).loss(dict(inputs, draws=draws))
    torch.manual_seed(5)
    wanted = model.loss(inputs)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_a_gpu_gets_the_same_numbers():
    model, batch = ready_model(), make_batch()
    torch.manual_seed(5)
    color = {name: torch.rand(BATCH, 2, GLOBALS + LOCALS, 12) for name in batch}
    drawn = model.draw_ahead(SHAPES)
    torch.manual_seed(5)
    inputs = model.cuda().data_preprocessor(batch, training=True)['inputs']
    assert all(torch.equal(inputs['draws'][name].cpu(), each) for name, each in drawn.items())
    for name, branch in batch.items():
        branch['color_draws'] = color[name]
    views = model.cpu().data_preprocessor(batch, training=True)['inputs']
    for name in batch:
        for key, value in views[name].items():
            torch.testing.assert_close(inputs[name][key].cpu(), value, rtol=1e-4, atol=1e-4)
