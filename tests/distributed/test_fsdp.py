"""FSDP: two ranks with sharded weights train like two with replicated weights."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.multiprocessing.spawn import ProcessException

from cotap_mm.distributed.fsdp import total_norm
from cotap_mm.registry import STRATEGIES
from tests.engine.resume.test_exact_resume import assert_same, saved
from tests.helpers import resume_work, sharding_work
from tests.helpers.rank_work import on_two_ranks
from tests.helpers.tiny import build_tiny


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path))
    monkeypatch.setenv('WORLD_SIZE', '2')
    (tmp_path / 'ranks').mkdir()
    return lambda work: on_two_ranks(work, tmp_path / 'ranks')


def close(one, other):
    """Compare all weights and the optimizer's state of two checkpoints.

    Keys that have a bias need :data:`sharding_work.STEADY`, see :func:`key_bias_gap`.
    """
    assert one['state_dict'].keys() == other['state_dict'].keys()
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(value, other['state_dict'][name], rtol=1e-4, atol=2e-6, msg=name)
    groups, others = (state['optimizer']['param_groups'] for state in (one, other))
    assert [group['params'] for group in groups] == [group['params'] for group in others]
    assert [group['weight_decay'] for group in groups] == [
        group['weight_decay'] for group in others
    ]
    for key, state in one['optimizer']['state'].items():
        for name, value in state.items():
            torch.testing.assert_close(
                value, other['optimizer']['state'][key][name], rtol=1e-3, atol=1e-6
            )


def key_bias_gap(checkpoint, num_steps):
    """Largest difference that rounding errors can make between key biases of two equal runs.

    In each step Adam moves an element by ``lr * m / (sqrt(v) + eps)``, which is at most
    ``lr * g / eps``: ``m`` is a weighted mean of the gradients so far, of which ``g`` is the
    largest. Since ``v >= (1 - beta2) * beta2**num_steps * g**2``, the saved ``v`` bounds ``g``.
    Two runs may move in opposite directions. These biases have no weight decay, and no schedule
    exceeds the initial learning rate.
    """
    group = checkpoint['optimizer']['param_groups'][1]
    assert group['weight_decay'] == 0
    seconds = [
        state['exp_avg_sq'].chunk(3)[1]
        for state in checkpoint['optimizer']['state'].values()
        if state['exp_avg_sq'].shape == (48,)  # of query, key and value
    ]
    assert len(seconds) == 2  # blocks
    beta = group['betas'][1]
    largest = (torch.cat(seconds).max() / ((1 - beta) * beta**num_steps)).sqrt()
    return float(2 * num_steps * group['initial_lr'] * largest / group['eps'])


@pytest.mark.dist
def test_shards_and_both_versions_resume_each_other(tmp_path, ranks):
    results = ranks(sharding_work.all_runs)
    sharded = saved(tmp_path / 'shared', 6)
    assert sharded['run_state']['world_size'] == 2
    shares = [result['shares'] for result in results]
    for name, held in shares[0].items():  # each row is on one rank
        count, is_replicated = sharded['state_dict'][name].numel(), 'neck.' in name
        assert held + shares[1][name] == count * (2 if is_replicated else 1), name
    halves = [sum(share.values()) for share in shares]
    assert abs(halves[0] - halves[1]) < 0.1 * sum(halves)
    assert_same(saved(tmp_path / 'killed', 6), sharded)
    for name in ('then_whole', 'then_older', 'then_newer'):
        close(saved(tmp_path / name, 6), sharded)
    whole, *others = (
        saved(tmp_path / name, 1)['state_dict']
        for name in (*(f'larger_{name}' for name in sharding_work.STRATEGIES), 'bare')
    )
    assert whole['backbone.pos_embed'].shape == (1, 65, 16)  # resized from (1, 17, 16)
    for name, value in whole.items():
        if name.startswith(('backbone.', 'teacher.backbone.', 'neck.', 'head.cls.')):
            assert all(torch.equal(value, other[name]) for other in others), name
    assert 0 < key_bias_gap(sharded, 6) < 2e-6  # the tolerance of all weights suffices
    # The comparison can fail: one step of Adam in the opposite direction, on the keys only.
    rate = sharded['optimizer']['param_groups'][0]['lr']
    sharded['state_dict']['backbone.layers.1.attn.qkv.bias'][16:32] += 2 * rate
    with pytest.raises(AssertionError, match='backbone.layers.1.attn.qkv.bias'):
        close(saved(tmp_path / 'then_whole', 6), sharded)
    for result in results:
        assert result['measured'] == pytest.approx(result['expected'], rel=1e-5)
        for errors, sentence in zip(
            result['errors'], ('is of another network: 2. of', 'resume trained another network: ')
        ):
            assert len(errors) == 3 and len(set(errors)) == 1  # with both versions and without
            assert re.search(
                sentence
                + r'.*backbone.cls_token has shape \(1, 1, 16\) in .*\(1, 1, 24\) with this',
                errors[0],
            )
    assert len(results[0]['measured']) == 2  # student and teacher


@pytest.mark.dist
def test_registers_rope_and_gated_mlps(tmp_path, ranks):
    results = ranks(sharding_work.modern_runs)
    assert all(math.isfinite(loss) for result in results for loss in result['losses'])
    assert results[0]['losses'] != results[1]['losses']  # of different images
    for name, value in results[0]['weights'].items():  # DDP keeps student and teacher equal
        assert torch.equal(value, results[1]['weights'][name]), name
    replicated, sharded = saved(tmp_path / 'whole', 4), saved(tmp_path / 'shared', 4)
    assert_same(saved(tmp_path / 'killed', 4), sharded)
    close(saved(tmp_path / 'then_shared', 4), replicated)
    close(saved(tmp_path / 'then_whole', 4), sharded)
    weights = sharded['state_dict']
    assert weights['backbone.layers.2.ffn.w12.weight'].shape == (48, 16)
    for name in ('backbone.rope.periods', 'teacher.backbone.rope.periods'):
        torch.testing.assert_close(weights[name], 50 ** (torch.arange(2) / 2), rtol=0, atol=0)
        assert torch.equal(results[0]['periods'], weights[name])
    # The teacher follows all weights, and the bias of keys stays zero.
    for name in ('register_tokens', 'layers.0.attn.gamma1.weight', 'layers.2.attn.qkv.weight'):
        gap = weights[f'teacher.backbone.{name}'] - weights[f'backbone.{name}']
        assert 0 < gap.abs().max() < 1e-2, name
    for layer in range(3):
        bias = weights[f'backbone.layers.{layer}.attn.qkv.bias']
        assert not bias[16:32].any() and bias.abs().sum() > 0
    first, last = (saved(tmp_path / 'frozen', step)['state_dict'] for step in (2, 4))
    for name, value in first.items():
        is_frozen = 'teacher' not in name and (
            name.startswith(tuple(f'backbone.{part}' for part in ('layers.0', 'layers.1', 'reg')))
        )
        assert not is_frozen or torch.equal(value, last[name]), name
    name = 'backbone.layers.2.ffn.w12.weight'
    assert not torch.equal(first[name], last[name])


@pytest.mark.dist
def test_a_skipped_step_and_a_checkpoint_that_cannot_be_started(tmp_path, ranks):
    # Rank 0 alone writes.
    assert ranks(sharding_work.faults) == [dict(skipped=1, saves=2), dict(skipped=1, saves=0)]
    assert [path.name for path in (tmp_path / 'faults').glob('*.pth')] == ['iter_4.pth']
    assert all(
        value.isfinite().all()
        for value in saved(tmp_path / 'faults', 4)['state_dict'].values()
        if value.is_floating_point()
    )


@pytest.mark.dist
def test_weights_in_the_report_of_a_diverged_training(tmp_path, ranks):
    """All ranks take part in gathering them."""
    with pytest.raises(ProcessException):
        ranks(sharding_work.diverged)
    (bundle,) = (tmp_path / 'diverged').glob('non_finite_iter_*.json')
    assert json.loads(bundle.read_text())['weights_that_are_not_finite'] == []


def test_unsupported_options_are_refused(monkeypatch):
    strategy = STRATEGIES.build(dict(sharding_work.STRATEGY, version=1))
    assert strategy.state_dict_type.name == 'FULL_STATE_DICT'
    with pytest.raises(ValueError, match='reads parts of a block'):
        strategy._wrap_model(build_tiny(with_cp='mlp'))
    with pytest.raises(ValueError, match='shards the networks of CoTAP, got Linear'):
        strategy._wrap_model(nn.Linear(1, 1))
    built = SimpleNamespace(clip_grad_kwargs=dict(max_norm=1.0), cast_dtype=torch.float32)
    monkeypatch.setattr('mmengine._strategy.FSDPStrategy.build_optim_wrapper', lambda *_: built)
    with pytest.raises(ValueError, match='clip_grad needs full gradients'):
        strategy.build_optim_wrapper({}, None)
    built.clip_grad_kwargs, built.cast_dtype = None, torch.float16
    with pytest.raises(ValueError, match='float16 with FSDP is not supported'):
        strategy.build_optim_wrapper({}, None)


def test_options_that_cannot_work_are_refused():
    def build(**options):
        STRATEGIES.build(dict(sharding_work.STRATEGY, **options))

    build(skip_init_weights=False, model_wrapper=dict(mixed_precision=dict(reduce_dtype='float16')))
    for name, value in (
        ('state_dict_cfg', 'full'),
        ('skip_init_weights', True),
        ('mp_policy', dict(param_dtype='bfloat16')),
        ('model_wrapper', dict(ignored_modules=[])),
        ('model_wrapper', dict(mixed_precision=dict(param_dtype='bfloat16'))),
    ):
        with pytest.raises(ValueError, match=f'strategy.{name}.* is not supported: .*; '):
            build(**{name: value})


def test_versions(monkeypatch):
    def name(**options):
        return type(STRATEGIES.build(dict(sharding_work.STRATEGY, **options))).__name__

    assert name() == name(version=2) == 'FullyShardedStrategy'
    assert name(version=1) == name(model_wrapper=dict(forward_prefetch=True)) == 'WrappedStrategy'
    with pytest.raises(ValueError, match='version must be 1 or 2, got 3'):
        name(version=3)
    with pytest.raises(ValueError, match='model_wrapper is an option of strategy.version=1'):
        name(version=2, model_wrapper={})
    monkeypatch.setattr('cotap_mm.distributed.fsdp.options.HAS_FULLY_SHARD', False)
    assert name() == 'WrappedStrategy'
    with pytest.raises(ValueError, match='version=2 requires PyTorch 2.7'):
        name(version=2)


def test_norms_of_shards_and_of_replicated_tensors_combine():
    norms = [torch.tensor(3.0), torch.tensor(4.0)]
    for shards in ([False, False], [True, False], [True, True]):  # of a single rank
        assert total_norm(norms, shards).item() == pytest.approx(5)
        assert total_norm(norms, shards, math.inf).item() == 4


def test_clipping_needs_norms_of_all_ranks():
    wrapper = OptimWrapper(
        torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), clip_grad=dict(max_norm=1.0)
    )
    strategy = STRATEGIES.build(sharding_work.STRATEGY)
    with pytest.raises(ValueError, match="MixedPrecisionOptimWrapper', got OptimWrapper"):
        strategy._check_clipping(wrapper)


def test_one_process_trains_without_fsdp(tmp_path, monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.launch.runner.print_log', lambda text, **_: messages.append(text)
    )
    runner = resume_work.train(tmp_path, 2, strategy=sharding_work.STRATEGY)
    assert isinstance(runner, Runner)
    assert any('this single process trains without it' in text for text in messages)


@pytest.mark.dist
def test_hooks_that_need_the_full_network(tmp_path, ranks):
    for errors in ranks(sharding_work.full_networks):
        assert {name: sentence.split()[0] for name, sentence in errors.items()} == dict(
            compile='CompileHook', evaluation='EvaluationHook'
        )
        assert all('strategy shards it; remove one' in error for error in errors.values())
