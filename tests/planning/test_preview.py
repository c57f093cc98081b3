"""A dry run reports the memory before anything is built, and which batches fit on GPUs."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from cotap_mm.commands import train
from cotap_mm.planning import preview
from cotap_mm.planning.capacity import find_capacities, format_capacities
from tests.planning.test_trace import BATCH, toy_config


@pytest.fixture(scope='module')
def config():
    config = toy_config(with_cp=True)
    config.default_scope = 'cotap_mm'
    return config


def test_capacities(config):
    found = {(each.global_size, each.recomputes): each for each in find_capacities(config)}
    assert list(found) == [(size, kept) for size in (64, 224, 448) for kept in (False, True)]
    assert [key for key, each in found.items() if each.is_config] == [(64, True)]
    assert [found[size, True].local_size for size in (64, 224, 448)] == [32, 112, 224]
    for size in (64, 224, 448):
        stored, recomputed = found[size, False], found[size, True]
        assert recomputed.memory < stored.memory
        for one, other in zip(stored.largest, recomputed.largest):
            assert 0 < one < other
        # Four times the patches.
        if size == 448:
            assert stored.largest[0] == pytest.approx(found[224, False].largest[0] / 4, rel=0.3)
    assert json.dumps([asdict(each) for each in found.values()])
    lines = format_capacities(list(found.values()), BATCH).splitlines()
    assert len(lines) == 8 and '24 GB' in lines[0] and f'memory of {BATCH}' in lines[0]
    assert '64 and 32 px' in lines[3] and 'recomputed (config)' in lines[3]


def test_memory_is_printed(config, capsys):
    train.print_memory(config)
    text = capsys.readouterr().out
    assert text.startswith('memory (estimate from the shapes of the tensors): 0.')
    assert 'activations 0.' in text and '8 x 80 GB, FSDP' in text
    config = toy_config()
    config.default_scope = 'mmseg'
    train.print_memory(config)
    assert not capsys.readouterr().out


def test_too_little_memory_is_an_error(config, capsys, monkeypatch):
    class Machine:
        free_memory = 2**20

    monkeypatch.setattr(preview, 'inspect_machine', Machine)
    monkeypatch.setattr(preview.torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match='0.0 GB of memory are available here, so the dry run was'):
        train.print_memory(config)
    assert 'largest batch per GPU' in capsys.readouterr().out
    cost = preview.estimate_cost(config, on_gpu=True)
    Machine.free_memory = cost.weight_bytes
    assert preview._shortage(cost, BATCH, on_gpu=True) == ''
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert preview._shortage(cost, BATCH, on_gpu=True).startswith('the weights need about')


def test_ranks(config, monkeypatch):
    alone = preview._cost_of_rank(config, on_gpu=True)
    monkeypatch.setattr(preview, 'world_size', lambda: 4)
    with_ddp = preview._cost_of_rank(config, on_gpu=True)
    assert with_ddp.weight_bytes == alone.weight_bytes + alone.gradient_bytes
    config = toy_config(with_cp=True)
    config.strategy = dict(type='cotap_mm.CoTAPFSDPStrategy')
    assert preview._cost_of_rank(config, on_gpu=True).optimizer_bytes < alone.optimizer_bytes


def test_one_rank_estimates_alone(monkeypatch):
    """Only rank 0 does, so a collective would wait for the others."""

    def fails(*_, **__):
        raise AssertionError('a collective was called')

    monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
    monkeypatch.setattr('torch.distributed.get_world_size', lambda: 2)
    monkeypatch.setattr('torch.distributed.all_reduce', fails)
    config = toy_config(arch=dict(num_layers=1))
    assert preview.estimate_cost(config, on_gpu=False).step[1].per_image > 0


def test_a_network_that_cannot_be_traced_is_not_an_error(config, monkeypatch):
    def fails(*_):
        raise RuntimeError('needs values')

    monkeypatch.setattr(preview, 'estimate_cost', fails)
    assert preview.preview_memory(config) == ('memory cannot be estimated: needs values', '')
