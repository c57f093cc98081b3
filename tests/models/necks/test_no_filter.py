"""Training and features without the object-aware filter."""

from __future__ import annotations

import pytest
import torch

import cotap_mm
from cotap_mm.evaluation import CoTAPEncoder
from tests.helpers import resume_work
from tests.helpers.tiny import LOSSES, build_tiny, make_inputs

PLAIN = dict(LOSSES, prototype_entropy=None)


def test_trains_without_the_filter_and_loads_as_a_plain_vit():
    torch.manual_seed(0)
    model = build_tiny(PLAIN, use_filter=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(3):
        losses = model.loss(make_inputs(seed=step))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.teacher.update(model.student, 0.9)
    assert set(losses) == {f'loss_{name}' for name in PLAIN if PLAIN[name]}
    assert model.neck.norm_patch.weight.grad.abs().sum() > 0
    images = torch.randn(2, 3, 32, 32)
    plain = cotap_mm.load(dict(state_dict=model.state_dict()), num_heads=2)
    assert plain.network.neck is None
    wanted = CoTAPEncoder(model, output='backbone')(images)
    torch.testing.assert_close(plain(images).patches, wanted.patches, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_trains_with_all_hooks(tmp_path):
    runner = resume_work.train(
        tmp_path,
        4,
        **{
            'model.neck': dict(_delete_=True, type='NoFilter'),
            'model.losses.prototype_entropy': None,
        },
    )
    logged = runner.message_hub.log_scalars
    assert 'train/monitor/feature_std' in logged and 'train/loss_patch_ranking' in logged
    assert 'train/monitor/prototypes_in_use' not in logged


def test_output_is_the_normalized_token():
    model = build_tiny(PLAIN, use_filter=False)
    images = torch.randn(2, 3, 32, 24)
    plain, found = (CoTAPEncoder(model, output=output)(images) for output in ('backbone', 'filter'))
    for before, after in (
        (plain.cls, found.cls),
        (plain.patches[..., 1, 2], found.patches[..., 1, 2]),
    ):
        torch.testing.assert_close(after, torch.nn.functional.layer_norm(before, [16], eps=1e-6))
    with pytest.raises(NotImplementedError, match='no object-aware filter'):
        CoTAPEncoder(model).prototype_attention(images)


def test_prototype_loss_needs_prototypes():
    with pytest.raises(ValueError, match='NoFilter has no prototypes .* set it to None'):
        build_tiny(LOSSES, use_filter=False)
