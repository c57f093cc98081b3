import json
import random

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from cotap_mm.evaluation import EvaluationHook
from cotap_mm.evaluation.evaluation_hook import preserve_random_state


class NoisyModel(BaseModel):
    """Learns from random numbers, so that a disturbed random state shows in its weights."""
    patch_size = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs, data_samples=None, mode='loss'):
        assert self.training and self.dropout.training
        return dict(loss=(self.dropout(torch.rand(3) + self.weight)**2).sum())

    def encode(self, images, branch='student', output='filter'):
        assert not self.dropout.training
        torch.rand(7), np.random.rand(), random.random()
        patches = nn.functional.avg_pool2d(images, self.patch_size) + self.weight.view(3, 1, 1)
        return patches.mean(dim=(2, 3)), patches


def labeled(count=3):
    label = torch.arange(64).view(8, 8) % 2
    image = (label * 200).to(torch.uint8).expand(3, 8, 8)
    return [dict(image=image, label=label)] * count


def run(work_dir, hooks, iters=5):
    torch.manual_seed(0)
    model = NoisyModel()
    runner = Runner(
        model, str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.zeros(1))] * 20, batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=hooks, default_hooks=dict(checkpoint=None), randomness=dict(seed=0),
        experiment_name=work_dir.name)
    runner.train()
    return runner


def make_hook(**kwargs):
    options = dict(k=2)
    return EvaluationHook(labeled(2), 2, train=labeled(), interval=2, options=options, **kwargs)


def test_measures_before_at_the_interval_and_at_the_end(tmp_path):
    runner = run(tmp_path / 'logged', [make_hook(measure=[('student', 'filter'),
                                                          ('teacher', 'backbone')])])
    names = ['dense_retrieval/mIoU_student', 'dense_retrieval/mIoU_teacher_backbone']
    lines = [json.loads(line) for line in next(
        tmp_path.glob('logged/*/vis_data/scalars.json')).read_text().splitlines()]
    lines = [line for line in lines if names[0] in line]
    assert [line['step'] for line in lines] == [0, 2, 4, 5]
    for name in names:
        history = runner.message_hub.get_scalar(name)
        assert history.current() == pytest.approx(lines[-1][name])


def test_training_is_not_disturbed(tmp_path):
    plain = run(tmp_path / 'plain', [])
    measured = run(tmp_path / 'measured', [make_hook()])
    assert torch.equal(plain.model.weight, measured.model.weight)
    assert plain.model.weight.abs().sum() > 0


def test_random_states_come_back_after_an_error():
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


def test_wrong_arguments_are_refused_before_training():
    with pytest.raises(ValueError, match='dense-retrieval has no option size; it has k, '):
        EvaluationHook(labeled(2), 2, train=labeled(), options=dict(size=3))
    with pytest.raises(ValueError, match='give train as well as val'):
        EvaluationHook(labeled(2), 2)
    with pytest.raises(ValueError, match='protocol must be one of dense-retrieval, .*linear'):
        EvaluationHook(labeled(2), 2, protocol='knearest')


@pytest.mark.parametrize('protocol, name, options', [
    ('linear-seg', 'linear_seg/mIoU_student', dict(steps=3, train_batch=2)),
    ('overclustering', 'overclustering/mIoU_K3_student', dict(num_clusters=(3, ), seeds=(0, ))),
    ('dispersion', 'dispersion/within_instance_student', dict(layers=False, purity=0.5)),
])
def test_any_protocol_and_no_trace_of_it(tmp_path, protocol, name, options):
    plain = run(tmp_path / 'plain', [])
    hook = EvaluationHook(labeled(2), 2, train=labeled(), interval=3, protocol=protocol,
                          measure=[('student', 'filter')], options=options)
    measured = run(tmp_path / 'measured', [hook])
    assert torch.equal(plain.model.weight, measured.model.weight)
    assert 0 <= measured.message_hub.get_scalar(name).current() <= 100
