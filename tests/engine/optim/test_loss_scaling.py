"""Loss scaling of float16 is saved in checkpoints; on a CPU the scaler runs as on a GPU."""

from __future__ import annotations

import warnings

import pytest
import torch

from cotap_mm.engine import MixedPrecisionOptimWrapper

pytestmark = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='torch before 2.3 scales losses on GPUs only'
)


def wrapper():
    """Wrapper of one weight; the scale doubles after two valid steps and halves after a bad one."""
    weight = torch.nn.Parameter(torch.ones(1))
    optim = MixedPrecisionOptimWrapper('float32', optimizer=torch.optim.Adam([weight], lr=0.1))
    optim.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8.0, growth_interval=2)
    optim.cast_dtype = torch.float16
    return optim, weight


def step(optim, weight, factor=1.0):
    optim.update_params((weight * factor).sum())
    return float(weight), optim.loss_scaler.get_scale()


def test_bad_steps_halve_the_scale_and_change_nothing():
    optim, weight = wrapper()
    first, scale = step(optim, weight)
    assert first == pytest.approx(0.9, abs=1e-4) and scale == 8
    assert step(optim, weight, float('inf')) == (first, 4) and optim.step_skipped
    assert step(optim, weight)[0] < first and not optim.step_skipped


def test_resumed_while_the_scale_grows():
    whole, weight = wrapper()
    optim, other = wrapper()
    for pair in ((whole, weight), (optim, other)):
        step(*pair, float('inf'))
        step(*pair)
    resumed, third = wrapper()
    resumed.load_state_dict(optim.state_dict())
    third.data.copy_(other.data)
    for _ in range(3):
        expected = step(whole, weight)
        assert step(resumed, third) == expected
    assert expected[1] == 16  # 4 after the bad step, doubled twice


def test_nothing_deprecated_is_used():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        wrapper()
