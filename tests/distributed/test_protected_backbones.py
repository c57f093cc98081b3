"""LoRA, the anchor, frozen first iterations and layer-wise rates on two ranks."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.test_fsdp import close, ranks  # noqa: F401  (a fixture)
from tests.engine.resume.test_exact_resume import assert_same, saved
from tests.helpers import protected_work


@pytest.mark.dist
def test_sharded_trainings_equal_replicated_ones_and_resume(tmp_path, ranks):  # noqa: F811
    weights = ranks(protected_work.all_runs)
    for name in ('whole', 'shared'):
        last = saved(tmp_path / name, 6)
        assert_same(saved(tmp_path / f'{name}_killed', 6), last)
        state = last['state_dict']
        updates = [key for key in state if key.startswith('backbone.') and '.lora_up' in key]
        assert updates and all(state[key].abs().sum() > 0 for key in updates)
        for key in updates:
            base, down = (
                state[key.replace('lora_up', other)] for other in ('lora_base', 'lora_down')
            )
            merged = state[key.replace('lora_up', 'weight')]
            torch.testing.assert_close(merged, base + state[key] @ down)
            assert base.equal(state[f'anchor.{key.replace("lora_up", "lora_base")}'])
        frozen = saved(tmp_path / f'{name}_killed', 2)
        assert not any(frozen['state_dict'][key].any() for key in updates)
        stored = {len(saved(tmp_path / name, i)['optimizer']['state']) for i in (2, 6)}
        assert len(stored) == 2  # the backbone has a state only after its first update
    # They start from different random weights, like those of the test of FSDP.
    assert weights[0]['whole'] == weights[1]['whole']
    assert sum(each['shared'] for each in weights) < 2 * weights[0]['whole']
    last = saved(tmp_path / 'last', 2)
    assert len(last['optimizer']['state']) == weights[0]['last']
    assert weights[0]['last'] < len(last['state_dict']) / 2  # without the teacher and block 0
