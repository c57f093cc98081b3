from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.evaluation import CoTAPEncoder, EvaluationData, EvaluationHook
from cotap_mm.evaluation.evaluate import PROTOCOLS, evaluate, evaluate_each
from cotap_mm.random_state import preserve_random_state
from tests.helpers import hooked_training
from tests.helpers.dense_rank_work import moving_clip
from tests.helpers.hooked_training import labeled, make_hook, run, stand_in
from tests.helpers.pixel_scenes import noise_scenes
from tests.helpers.rank_work import on_two_ranks
from tests.helpers.tiny import build_tiny


def test_evaluates_before_training_at_the_interval_and_at_the_end(tmp_path):
    runner = run(
        tmp_path / 'logged', [make_hook(measure=[('student', 'filter'), ('teacher', 'backbone')])]
    )
    names = ['dense_retrieval/mIoU_student', 'dense_retrieval/mIoU_teacher_backbone']
    lines = [
        json.loads(line)
        for line in next(tmp_path.glob('logged/*/vis_data/scalars.json')).read_text().splitlines()
    ]
    lines = [line for line in lines if names[0] in line]
    assert [line['step'] for line in lines] == [0, 2, 4, 5]
    for name in names:
        history = runner.message_hub.get_scalar(name)
        assert history.current() == pytest.approx(lines[-1][name])


def test_training_is_not_affected(tmp_path):
    plain = run(tmp_path / 'plain', [])
    measured = run(tmp_path / 'measured', [make_hook()])
    assert torch.equal(plain.model.weight, measured.model.weight)
    assert plain.model.weight.abs().sum() > 0


def test_random_states_are_restored_after_an_error():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    wanted = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with pytest.raises(KeyError), preserve_random_state():
        draw()
        raise KeyError
    assert draw() == wanted


def test_interval_must_be_positive():
    with pytest.raises(ValueError, match='interval'):
        EvaluationHook(labeled(2), 2, train=labeled(), interval=0)


def test_invalid_arguments_are_rejected_before_training():
    with pytest.raises(ValueError, match='dense-retrieval has no option size; it has k, '):
        EvaluationHook(labeled(2), 2, train=labeled(), options=dict(size=3))
    with pytest.raises(ValueError, match='pass train as well as val'):
        EvaluationHook(labeled(2), 2)
    with pytest.raises(ValueError, match='protocol must be one of dense-retrieval, .*linear'):
        EvaluationHook(labeled(2), 2, protocol='knearest')


def whole_images():
    """Classification images of two classes."""
    return [dict(image=each['image'], label=index % 2) for index, each in enumerate(labeled(4))]


SETTINGS = {
    'dense-retrieval': dict(k=2),
    'linear-seg': dict(steps=3, train_batch=2),
    'overclustering': dict(num_clusters=(3,), seeds=(0,), kmeans='sklearn'),
    'dispersion': dict(layers=False, purity=0.5),
    'correspondence': {},
    'foreground': {},
    'knn': dict(k=2),
    'linear': dict(lr=0.1),
    'video': dict(image_size=32),
}


def data_for(protocol):
    """Data sets to score and, if the protocol learns, to learn from."""
    kind = PROTOCOLS[protocol].kind
    if kind == 'video':
        return dict(val=[moving_clip()])
    return (
        dict(val=labeled(2), train=labeled())
        if kind == 'segmentation'
        else dict(val=whole_images(), train=whole_images())
    )


@pytest.mark.parametrize('protocol', [name for name in PROTOCOLS if name != 'foreground'])
def test_no_protocol_affects_the_training(tmp_path, protocol):
    plain = run(tmp_path / 'plain', [])
    hook = EvaluationHook(
        num_classes=2,
        interval=3,
        protocol=protocol,
        options=SETTINGS[protocol],
        measure=[('student', 'filter')],
        **data_for(protocol),
    )
    measured = run(tmp_path / 'measured', [hook])
    assert torch.equal(plain.model.weight, measured.model.weight)
    headline = hook.history[0][2].metric
    name = f'{protocol.replace("-", "_")}/{headline}_student'
    assert 0 <= measured.message_hub.get_scalar(name).current() <= 100
    assert [step for step, *_ in hook.history] == [0, 3, 5]


@pytest.mark.parametrize('protocol', list(PROTOCOLS))
def test_network_mode_is_restored(protocol):
    torch.manual_seed(0)
    model = build_tiny().train()
    model.teacher.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    data = data_for(protocol)
    if PROTOCOLS[protocol].kind == 'segmentation':
        data = dict(val=noise_scenes(2, 32, num_classes=2), train=noise_scenes(2, 32, 2, seed=1))
    hook = EvaluationHook(num_classes=2, protocol=protocol, options=SETTINGS[protocol], **data)
    logged = {}

    runner = stand_in(model)
    runner.visualizer.add_scalars = lambda values, step: logged.update(values)
    draws = torch.get_rng_state()
    values = hook.evaluate(runner, 7)
    assert len(values) == 2 and logged == values and all(0 <= v <= 100 for v in values.values())
    assert torch.equal(draws, torch.get_rng_state())
    assert modes == [part.training for part in model.modules()]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.dist
def test_training_on_two_ranks_is_not_affected(tmp_path):
    found = on_two_ranks(hooked_training.trained_weights, tmp_path)
    for plain, measured in found:
        assert torch.equal(plain, measured) and plain.abs().sum() > 0


def test_classification_from_a_config(tmp_path):
    for part in ('train', 'val'):
        for kind in ('cat', 'dog'):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.new('RGB', (40, 40), 'red' if kind == 'cat' else 'blue').save(
                tmp_path / part / kind / 'a.png'
            )
    config = {
        part: dict(type='ClassFolder', root=str(tmp_path / part), crop=32)
        for part in ('train', 'val')
    }
    hook = EvaluationHook(
        num_classes=2,
        protocol='knn',
        interval=9,
        options=dict(k=1),
        measure=[('student', 'filter')],
        **config,
    )
    runner = run(tmp_path / 'run', [hook])
    assert runner.message_hub.get_scalar('knn/top1_student').current() == 100


def test_equal_networks_are_measured_once(monkeypatch):
    """Before the first iteration, the teacher is a copy of the student."""
    torch.manual_seed(0)
    model = build_tiny()
    calls = []

    def counted(encoders, *args, **options):
        calls.extend((encoder.network, encoder.output) for encoder in encoders)
        return evaluate_each(encoders, *args, **options)

    monkeypatch.setattr('cotap_mm.evaluation.hook.evaluate_each', counted)
    measure = [(network, 'filter') for network in ('student', 'teacher')]
    data = dict(val=noise_scenes(2, 32, num_classes=2), train=noise_scenes(2, 32, 2, seed=1))
    hook = EvaluationHook(num_classes=2, measure=measure, options=dict(k=2), **data)
    runner = stand_in(model)
    assert len(set(hook.evaluate(runner, 0).values())) == 1 and len(calls) == 1
    assert [pair for _, pair, _ in hook.history] == measure
    with torch.no_grad():
        model.backbone.cls_token.add_(1)  # as weights of a training, with a teacher of their own
    hook.evaluate(runner, 0)
    model.teacher.update(model.student, 0.0)
    hook.evaluate(runner, 1)
    assert len(calls) == 5


@pytest.mark.parametrize('protocol', ['dense-retrieval', 'linear-seg'])
def test_both_outputs_of_a_network_are_measured_together(protocol, monkeypatch):
    """The results are those of single evaluations; images are read once in a training."""
    model, measure = build_tiny(), [('student', 'backbone'), ('student', 'filter')]
    passes, read = [], []
    kind = type(model.backbone)
    forward = kind.forward_tokens
    monkeypatch.setattr(
        kind, 'forward_tokens', lambda self, *args: passes.append(1) or forward(self, *args)
    )

    class Noted(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    data = dict(train=noise_scenes(3, 32, 2, seed=1), val=noise_scenes(2, 32, 2))
    options = dict(SETTINGS[protocol], batch_size=2)
    hook = EvaluationHook(
        num_classes=2,
        protocol=protocol,
        measure=measure,
        options=options,
        **{name: Noted(samples) for name, samples in data.items()},
    )
    for step in range(2):
        hook.evaluate(stand_in(model), step)
    batches = 2 * (2 + 1)  # in two evaluations
    assert len(passes) == batches * (1 if protocol == 'dense-retrieval' else 2)
    assert sorted(read) == [0, 0, 1, 1, 2]
    plain = EvaluationData('val', 'segmentation', ['0', '1'], data['val'], data['train'])
    for _, pair, result in hook.history:
        wanted = evaluate(CoTAPEncoder(model, *pair), plain, protocol, **options)
        assert result.scores == wanted.scores and result.weights == wanted.weights
        assert result.parameters == wanted.parameters and result.images == wanted.images
    assert hook.history[0][2].scores != hook.history[1][2].scores


@pytest.mark.dist
def test_results_on_two_ranks_are_those_of_one(tmp_path):
    alone = hooked_training.results_of_outputs(0)
    assert len(alone) == 6
    for found in on_two_ranks(hooked_training.results_of_outputs, tmp_path):
        torch.testing.assert_close(found, alone)
