"""Adam is fused where torch supports it, and stays so when it loads the state of another run."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from cotap_mm.compat.workarounds import version_numbers
from cotap_mm.engine.optim import fused as module
from cotap_mm.engine.optim.fused import choose_fused

ON_CPU = version_numbers(torch.__version__) >= (2, 4)


def build(model, kind='AdamW', **options):
    return build_optim_wrapper(
        model,
        dict(
            type='cotap_mm.MixedPrecisionOptimWrapper',
            constructor='cotap_mm.CoTAPOptimWrapperConstructor',
            dtype='float32',
            optimizer=dict(type=kind, lr=0.1, **options),
        ),
    )


@pytest.mark.parametrize(
    'kind, on_gpu, version, fused',
    [
        ('AdamW', True, '2.1.0', True),
        ('Adam', False, '2.4.0', True),
        ('AdamW', False, '2.3.1+cpu', None),
        ('SGD', True, '2.4.0', None),
    ],
)
def test_adam_is_fused_on_gpus_and_with_new_torch_on_cpus(
    monkeypatch, kind, on_gpu, version, fused
):
    monkeypatch.setattr(torch.nn.Parameter, 'is_cuda', on_gpu)
    monkeypatch.setattr(module.torch, '__version__', version)
    assert choose_fused(dict(type=kind, lr=0.1), torch.nn.Linear(2, 2)) is fused


@pytest.mark.parametrize('option', [dict(fused=False), dict(foreach=True), dict(foreach=False)])
def test_choices_of_the_user_are_kept(option):
    optimizer = build(torch.nn.Linear(2, 2), **option).optimizer
    assert optimizer.defaults['fused'] is option.get('fused')
    assert optimizer.defaults['foreach'] is option.get('foreach')


def test_a_state_of_other_shapes_is_refused():
    states = []
    for width in (2, 3):
        model = torch.nn.Linear(width, 2)
        wrapper = build(model)
        wrapper.update_params(model(torch.ones(1, width)).sum())
        states.append((wrapper.optimizer, wrapper.optimizer.state_dict()))
    with pytest.raises(ValueError, match=r'parameter of shape \(2, 2\) has shape \(2, 3\)'):
        states[0][0].load_state_dict(states[1][1])


@pytest.mark.skipif(not ON_CPU, reason='on a CPU, Adam is fused since torch 2.4')
def test_weights_agree_with_the_loop():
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(30, 20).double(), torch.randn(9, 30).double()
    other = copy.deepcopy(model)
    one, two = build(model), build(other, fused=False, foreach=False)
    assert one.optimizer.defaults['fused'] and not two.optimizer.defaults['fused']
    for _ in range(20):
        for each, wrapper in ((model, one), (other, two)):
            wrapper.update_params(each(inputs).square().mean())
    torch.testing.assert_close(model.weight, other.weight, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not ON_CPU, reason='on a CPU, Adam is fused since torch 2.4')
@pytest.mark.parametrize('before, after', [(None, False), (False, None)])
def test_a_loaded_state_does_not_change_the_implementation(before, after):
    """Otherwise a skipped step would not be skipped, since only the fused kernel reads the flag."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)

    def options(value):
        return {} if value is None else dict(fused=value)

    first = build(model, **options(before))
    first.update_params(model(torch.ones(1, 3)).sum())
    second = build(model, **options(after))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    wanted = second.optimizer.defaults['fused']
    assert wanted is (after is None)
    assert all(group['fused'] is wanted for group in second.optimizer.param_groups)
    weights = model.weight.detach().clone()
    second.update_params(model(torch.full((1, 3), float('nan'))).sum())
    assert second.step_skipped and torch.equal(model.weight, weights)
    second.update_params(model(torch.ones(1, 3)).sum())
    assert not torch.equal(model.weight, weights)
    state = second.optimizer.state[model.weight]
    assert state['step'] == 2
