"""A rank that dies or stalls: the others end within the time-out and say which one it is."""
import re

import pytest
from engine.lost_rank_work import collectives
from rank_work import free_port
from torch import multiprocessing

from cotap_mm.engine.lost_ranks import explained_losses, timeout_of


@pytest.mark.dist
@pytest.mark.parametrize('how, lost', [('dies', 0), ('stalls', 2)])
def test_the_others_say_which_one(tmp_path, how, lost):
    world = 3
    context = multiprocessing.get_context('spawn')
    port = free_port()
    processes = [context.Process(target=collectives,
                                 args=(rank, world, port, tmp_path, lost, how))
                 for rank in range(world)]
    try:
        for process in processes:
            process.start()
        for rank, process in enumerate(processes):
            if rank != lost:
                process.join(timeout=120)
                assert process.exitcode == 1, 'hangs'
    finally:
        for process in processes:
            process.kill()
    assert (tmp_path / 'stalls').exists() == (how == 'stalls')
    for rank in range(world):
        if rank != lost:
            said = (tmp_path / str(rank)).read_text()
            assert re.match(rf'rank {rank}, iteration 3: rank {lost} does not answer: died '
                            r'\(out of memory\?\) or hangs', said), said
            assert '--resume goes on' in said


def test_other_errors_stay_as_they_are(monkeypatch):
    monkeypatch.setattr('cotap_mm.engine.lost_ranks.world_size', lambda: 2)
    for error in (RuntimeError('shapes do not fit'), ValueError('connection closed')):
        with pytest.raises(type(error)) as caught, explained_losses(lambda: 0):
            raise error
        assert caught.value is error


def test_time_out(monkeypatch):
    monkeypatch.delenv('COTAP_DIST_TIMEOUT', raising=False)
    assert timeout_of(7) == 7
    monkeypatch.setenv('COTAP_DIST_TIMEOUT', '2.5')
    assert timeout_of(7) == 2.5
    for bad in ('-1', 'soon'):
        monkeypatch.setenv('COTAP_DIST_TIMEOUT', bad)
        with pytest.raises(ValueError, match='COTAP_DIST_TIMEOUT must be a positive number'):
            timeout_of(7)
