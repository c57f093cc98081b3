"""FSDP: two ranks that share the weights train as two that do not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from engine import resume_work, sharding_work
from engine.test_exact_resume import assert_same, saved
from mmengine.runner import Runner
from rank_work import on_two_ranks
from tiny import build_tiny
from torch.multiprocessing.spawn import ProcessException

from cotap_mm.engine import CoTAPFSDPStrategy


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path))
    monkeypatch.setenv('WORLD_SIZE', '2')
    (tmp_path / 'ranks').mkdir()
    return lambda work: on_two_ranks(work, tmp_path / 'ranks')


def close(one, other):
    assert one['state_dict'].keys() == other['state_dict'].keys()
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(value, other['state_dict'][name], rtol=1e-4, atol=2e-6, msg=name)
    groups, others = (each['optimizer']['param_groups'] for each in (one, other))
    assert [group['params'] for group in groups] == [group['params'] for group in others]
    assert [group['weight_decay'] for group in groups] == [
        group['weight_decay'] for group in others
    ]
    for key, state in one['optimizer']['state'].items():
        for name, value in state.items():
            torch.testing.assert_close(
                value, other['optimizer']['state'][key][name], rtol=1e-3, atol=1e-6
            )


@pytest.mark.dist
def test_as_without_it(tmp_path, ranks):
    shares = ranks(sharding_work.all_runs)
    whole, shared = saved(tmp_path / 'whole', 6), saved(tmp_path / 'shared', 6)
    assert shared['run_state']['world_size'] == 2
    for name, value in whole['state_dict'].items():  # each weight is on one rank or in two pieces
        if name in shares[0]:
            held = sum(share[name] for share in shares)
            is_whole = name.startswith(('neck.', 'teacher.'))
            assert held == value.numel() * (2 if is_whole else 1), name
    assert_same(saved(tmp_path / 'killed', 6), shared)
    # The runners start from other random weights, so from iteration 2 on they are compared.
    close(saved(tmp_path / 'then_shared', 6), whole)
    close(saved(tmp_path / 'then_whole', 6), shared)


@pytest.mark.dist
def test_a_step_with_bad_numbers_is_left_out_on_both(tmp_path, ranks):
    assert [found['skipped'] for found in ranks(sharding_work.bad_numbers)] == [1, 1]
    assert all(
        value.isfinite().all()
        for value in saved(tmp_path / 'bad', 4)['state_dict'].values()
        if value.is_floating_point()
    )


@pytest.mark.dist
def test_the_bundle_of_a_diverged_training(tmp_path, ranks):
    """Its weights are gathered by all ranks."""
    with pytest.raises(ProcessException):
        ranks(sharding_work.diverged)
    (bundle,) = (tmp_path / 'diverged').glob('non_finite_iter_*.json')
    assert json.loads(bundle.read_text())['weights_that_are_not_finite'] == []


@pytest.mark.dist
def test_a_checkpoint_that_cannot_be_begun(tmp_path, ranks):
    assert ranks(sharding_work.no_folder) == [2, 0]  # calls of rank 0, which alone writes
    assert [path.name for path in (tmp_path / 'no_folder').glob('*.pth')] == ['iter_4.pth']
    assert all(
        value.isfinite().all() for value in saved(tmp_path / 'no_folder', 4)['state_dict'].values()
    )


def test_what_it_cannot_do(monkeypatch):
    strategy = CoTAPFSDPStrategy.__new__(CoTAPFSDPStrategy)
    with pytest.raises(ValueError, match='reads parts of a block'):
        strategy._wrap_model(build_tiny(with_cp='mlp'))
    built = SimpleNamespace(clip_grad_kwargs=dict(max_norm=1.0), cast_dtype=torch.float32)
    monkeypatch.setattr('mmengine._strategy.FSDPStrategy.build_optim_wrapper', lambda *_: built)
    with pytest.raises(ValueError, match='clip_grad needs whole gradients'):
        strategy.build_optim_wrapper({}, None)
    built.clip_grad_kwargs, built.cast_dtype = None, torch.float16
    with pytest.raises(ValueError, match='float16 with FSDP is not supported'):
        strategy.build_optim_wrapper({}, None)


def test_one_process_trains_without_it(tmp_path, monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    said = []
    monkeypatch.setattr(
        'cotap_mm.engine.launch.runner.print_log', lambda text, **_: said.append(text)
    )
    runner = resume_work.train(tmp_path, 2, strategy=sharding_work.STRATEGY)
    assert isinstance(runner, Runner)
    assert any('this one trains without it' in text for text in said)


@pytest.mark.dist
def test_hooks_that_need_the_whole_network(tmp_path, ranks):
    for said in ranks(sharding_work.whole_networks):
        assert {name: sentence.split()[0] for name, sentence in said.items()} == dict(
            compile='CompileHook', evaluation='EvaluationHook'
        )
        assert all('strategy shares it out; remove one' in each for each in said.values())
