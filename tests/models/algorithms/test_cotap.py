"""The algorithm: teacher moves, student learns, state is saved, branches can be skipped."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from cotap_mm.models.losses import NamedLosses
from cotap_mm.models.modules import CropBatch
from tests.helpers.tiny import LOSSES, build_tiny, make_inputs


def step(model, inputs, lr=0.05):
    losses = {k: v for k, v in model.loss(inputs).items() if k.startswith('loss')}
    total = sum(losses.values())
    model.zero_grad()
    total.backward()
    with torch.no_grad():
        for param in model.parameters():
            if param.grad is not None:
                param -= lr * param.grad
    model.teacher.update(model.student, 0.9)
    return losses


def test_first_step_skips_losses_that_need_queues(tiny, inputs):
    losses = step(tiny, inputs)
    assert set(losses) == {'loss_' + name for name in LOSSES}
    for name in ('patch_cluster', 'cls_cluster', 'cls_neighbor'):
        assert losses['loss_' + name].item() == 0
    assert losses['loss_patch_ranking'] > 0 and losses['loss_prototype_entropy'] > 0
    second = step(tiny, inputs)
    assert all(value > 0 for value in second.values())


def test_every_student_parameter_gets_a_gradient_and_no_teacher_parameter_does(tiny, inputs):
    tiny.loss(inputs)
    sum(tiny.loss(inputs).values()).backward()
    for name, param in tiny.named_parameters():
        if name.startswith('teacher.'):
            assert param.grad is None and not param.requires_grad, name
        else:
            assert param.grad is not None, name


def test_prototypes_move_by_the_entropy_loss_only(tiny, inputs):
    tiny.loss(inputs)
    losses = tiny.loss(inputs)
    others = sum(value for name, value in losses.items() if name != 'loss_prototype_entropy')
    others.backward(retain_graph=True)
    assert tiny.neck.prototypes.grad is None
    losses['loss_prototype_entropy'].backward()
    assert tiny.neck.prototypes.grad.any()


@pytest.mark.slow
def test_training_lowers_the_losses(tiny, inputs):
    step(tiny, inputs)
    first = sum(step(tiny, inputs).values()).item()
    for _ in range(20):
        last = sum(step(tiny, inputs).values()).item()
    assert last < first


def test_teacher_moves_by_the_decay_and_stays_in_eval(tiny, inputs):
    old = copy.deepcopy(tiny.teacher)
    for param in tiny.backbone.parameters():
        param.data.add_(1)
    tiny.train()
    tiny.teacher.update(tiny.student, 0.9)
    wanted = 0.9 * old.backbone.cls_token + 0.1 * tiny.backbone.cls_token
    torch.testing.assert_close(tiny.teacher.backbone.cls_token.data, wanted.data)
    assert not any(module.training for module in tiny.teacher.modules())
    assert tiny.teacher.num_updates == 1
    with pytest.raises(ValueError, match='decay'):
        tiny.teacher.update(tiny.student, 1.5)


def test_a_teacher_that_never_moves_is_an_error(tiny, inputs):
    tiny.teacher_patience = 3
    tiny.train()
    with pytest.raises(RuntimeError, match='TeacherHook'):
        for _ in range(3):
            tiny.loss(inputs)


def test_state_survives_saving(tiny):
    torch.manual_seed(1)
    for seed in range(3):
        step(tiny, make_inputs(seed=seed))
    buffer = io.BytesIO()
    torch.save(tiny.state_dict(), buffer)
    buffer.seek(0)
    other = build_tiny()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    inputs = make_inputs(seed=9)
    torch.manual_seed(2)
    wanted = tiny.loss(inputs)
    torch.manual_seed(2)
    got = other.loss(inputs)
    for name in wanted:
        assert torch.equal(wanted[name], got[name]), name


def memories(inputs):
    """Teacher scores of foreground patches, of CLS, and templates of the student, after a step."""
    torch.manual_seed(0)
    model = build_tiny()
    model.loss(inputs)
    return [part.features for part in (model.patch_queue, model.cls_queue, model.template_bank)]


@pytest.mark.parametrize(
    'key, follows',
    [('teacher_global', [True, True, False]), ('student_global', [False, False, True])],
)
def test_the_teacher_sees_its_own_crops_without_color_augmentation(inputs, key, follows):
    before = memories(inputs)
    for views in inputs.values():
        views[key] = views[key] + 0.5 * torch.randn_like(views[key])
    after = memories(inputs)
    assert [not torch.equal(*pair) for pair in zip(before, after)] == follows


def test_a_step_stores_at_most_per_step_rows(tiny, inputs):
    for step_count in range(1, 4):  # 12 crops of 16 patches a step
        old = tiny.template_bank.newest_first()
        tiny.loss(inputs)
        assert len(tiny.patch_queue) == min(16 * step_count, 64)
        assert len(tiny.cls_queue) == min(4 * step_count, 16)
        assert len(tiny.template_bank) == min(12 * step_count, 24)
    # Once the bank of 24 is full, a step replaces 4 templates.
    assert torch.equal(tiny.template_bank.newest_first()[4:], old[:-4])
    assert not torch.equal(tiny.template_bank.newest_first()[:4], old[:4])


def test_kmeans_starts_the_prototypes_of_the_student_once(tiny, inputs):
    before = tiny.neck.prototypes.clone()
    teacher = tiny.teacher.neck.prototypes.clone()
    assert not tiny.template_bank.has_started_prototypes
    tiny.loss(inputs)  # 12 crops of 24
    assert torch.equal(tiny.neck.prototypes, before)
    tiny.loss(inputs)
    assert tiny.template_bank.has_started_prototypes
    started = tiny.neck.prototypes.clone()
    norms = started.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert torch.equal(tiny.teacher.neck.prototypes, teacher)
    tiny.loss(inputs)
    assert torch.equal(tiny.neck.prototypes, started)


@pytest.mark.parametrize(
    'names',
    [['cls_cluster'], ['patch_ranking'], ['prototype_entropy'], ['patch_cluster', 'cls_neighbor']],
)
def test_losses_can_be_skipped(names, inputs):
    model = build_tiny({name: LOSSES[name] for name in names})
    for _ in range(2):
        losses = model.loss(inputs)
    assert set(losses) == {'loss_' + name for name in names}
    assert all(value > 0 for value in losses.values())


def test_loss_weights_scale_their_losses(tiny, inputs):
    other = copy.deepcopy(tiny)
    other.losses.weights = dict(cls_cluster=0.25, patch_ranking=3.0)
    results = []
    for model in (tiny, other):
        torch.manual_seed(0)
        model.loss(inputs)
        results.append(model.loss(inputs))
    for name, plain in results[0].items():
        weight = other.losses.weights.get(name[len('loss_') :], 1.0)
        torch.testing.assert_close(results[1][name], weight * plain)


def test_no_local_crops(tiny, inputs):
    for views in inputs.values():
        views['student_local'] = views['student_local'][:, :0]
    inputs['patch']['common_global'] = inputs['patch']['common_global'][:, :, :2]
    inputs['patch']['common_other'] = inputs['patch']['common_other'][:, :2]
    tiny.loss(inputs)
    assert all(value > 0 for value in tiny.loss(inputs).values())


def test_batch_of_one_image(tiny):
    inputs = make_inputs(batch=1)
    tiny.loss(inputs)
    assert all(torch.isfinite(value) for value in tiny.loss(inputs).values())


def test_activation_checkpointing_gives_the_same_gradients(inputs):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = build_tiny(with_cp=with_cp)
        torch.manual_seed(1)
        model.loss(inputs)
        sum(model.loss(inputs).values()).backward()
        gradients.append(model.backbone.patch_embed.projection.weight.grad)
    torch.testing.assert_close(*gradients)


def test_autocast_gives_close_losses(tiny, inputs):
    other = copy.deepcopy(tiny)
    for model in (tiny, other):
        torch.manual_seed(0)
        model.loss(inputs)
    torch.manual_seed(1)
    exact = tiny.loss(inputs)
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rounded = other.loss(inputs)
    for name, value in rounded.items():
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(exact[name].item(), rel=0.2), name


def test_monitors_are_computed_on_request(tiny, inputs):
    assert not [name for name in tiny.loss(inputs) if name.startswith('monitor/')]
    tiny.monitor_now = True
    monitors = {k: float(v) for k, v in tiny.loss(inputs).items() if k.startswith('monitor/')}
    assert len(monitors) == 6 and abs(monitors.pop('monitor/foreground_border_excess')) <= 1
    assert all(0 <= value <= 1.0001 for value in monitors.values())


def test_encode_contract(tiny):
    images = torch.randn(2, 3, 40, 24)
    for output, width in (('filter', 32), ('backbone', 16)):
        for network in ('student', 'teacher'):
            cls, patches = tiny.encode(images, network, output)
            assert cls.shape == (2, width) and patches.shape == (2, width, 5, 3)
            assert not patches.requires_grad
    assert tiny.foreground(images).shape == (2, 5, 3)
    attention = tiny.prototype_attention(images)
    assert attention.shape == (2, 2, 5, 3, 2)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 5, 3))
    with pytest.raises(ValueError, match='network must be'):
        tiny.encode(images, network='ema')
    with pytest.raises(ValueError, match='output'):
        tiny.encode(images, output='head')


def test_unknown_losses_and_pool_sizes():
    with pytest.raises(ValueError, match='patch_rank'):
        build_tiny(dict(patch_rank=dict(type='PatchRankingLoss')))
    with pytest.raises(ValueError, match="loss_weights must name .*'patch_rank'"):
        build_tiny(loss_weights=dict(patch_rank=2.0))
    model = build_tiny()
    model.pairs.pool_sizes = (7,)
    with pytest.raises(ValueError, match='set pool_sizes'):
        model.loss(make_inputs())


def test_state_dict_holds_the_filter_weights_once(tiny):
    names = [name for name in tiny.state_dict() if name.startswith('neck.')]
    assert sorted(names) == sorted(
        ['neck.prototypes']
        + [
            f'neck.norm_{part}.{kind}'
            for part in ('prototypes', 'patch', 'cls')
            for kind in ('weight', 'bias')
        ]
    )


def test_crop_batch_splits_what_it_concatenates():
    patch, cls = torch.rand(4, 2, 3, 8, 8), torch.rand(6, 3, 3, 8, 8)
    batch = CropBatch(dict(cls=dict(key=cls), patch=dict(key=patch)), 'key')
    crops = batch.concatenated()
    assert crops.shape == (4 * 2 + 6 * 3, 3, 8, 8)
    for branch, views in (('patch', patch), ('cls', cls)):
        assert torch.equal(batch.unflatten(branch, batch.rows_of(branch, crops)), views)
    alone = CropBatch(dict(cls=dict(key=cls), patch=dict(key=patch[:, :0])), 'key')
    assert alone.shapes == dict(cls=(6, 3))
    assert torch.equal(alone.rows_of('cls', alone.concatenated()), cls.flatten(0, 1))
    assert not CropBatch(dict(cls=dict(key=cls[:, :0])), 'key')


@pytest.mark.parametrize(
    'names, branches, trained',
    [
        (['patch_ranking'], ['patch'], ['patch']),
        (['prototype_entropy'], ['cls'], []),
        (['cls_neighbor', 'patch_cluster'], ['patch', 'cls'], ['patch', 'cls']),
    ],
)
def test_losses_determine_branches_and_trained_heads(names, branches, trained):
    losses = NamedLosses({**{name: LOSSES[name] for name in names}, 'cls_cluster': None})
    assert losses.branches == branches
    assert [branch for branch in ('patch', 'cls') if losses.trains_head(branch)] == trained
