"""Several ranks build one neighbor file together, and abort if one of them fails."""

from __future__ import annotations

import re
import signal
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config

from cotap_mm.engine import auto_neighbors
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.errors import UserError
from tests.helpers.faults import time_limit
from tests.helpers.forked_ranks import FORK, Ranks, on_forked_ranks
from tests.helpers.neighbor_rank_work import (
    Encoder,
    OneBreaks,
    OneDeletes,
    OneIsLost,
    Together,
    build,
    build_slowly,
)

forked = pytest.mark.skipif(FORK is None, reason='forks processes')
BACKBONE = dict(
    type='DINOViT',
    img_size=16,
    patch_size=8,
    arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
)


def make_config(num_images):
    return Config(
        dict(
            model=dict(backbone=BACKBONE, init_cfg=None),
            train_dataloader=dict(
                num_workers=0,
                dataset=dict(
                    type='NeighborPairs',
                    num_neighbors=2,
                    neighbors='auto',
                    patch=dict(type='ToyScenes', num_images=num_images, image_size=32),
                ),
            ),
        )
    )


def make_folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


@forked
@pytest.mark.dist
def test_two_ranks_shard_the_work_and_equal_one_process(tmp_path):
    shared, alone, results = make_folders(tmp_path, 'shared', 'alone', 'results')
    first, second = on_forked_ranks(Together(shared), results)
    expected = build(alone)
    for found in (first, second):
        assert torch.equal(found['indices'], expected['indices'])
    assert (first['seen'], second['seen']) == (12, 11) and expected['seen'] == 23
    assert [path.name for path in shared.iterdir()] == ['n.npy']


@forked
@pytest.mark.dist
def test_a_failure_aborts_all_ranks_and_one_process_resumes(tmp_path):
    shared, results = make_folders(tmp_path, 'shared', 'results')
    first, second = on_forked_ranks(OneBreaks(shared), results)
    assert second == 'ValueError: the network broke'
    assert re.sub(r'process \d+ on [^)]+', 'process PID on HOST', first) == (
        'PeerFailed: neighbors of n.npy: rank 0: rank 1 (process PID on HOST) failed: '
        'ValueError: the network broke. See its own output, then start again (training: '
        'with --resume)'
    )
    found = build(shared)
    assert found['seen'] == 7  # 12 of rank 0 and the first 4 of rank 1 are kept
    assert [path.name for path in shared.iterdir()] == ['n.npy']


@forked
@pytest.mark.dist
@pytest.mark.parametrize('how', ['SIGKILL', 'SIGSTOP'])
def test_a_lost_rank_aborts_the_others(tmp_path, monkeypatch, how):
    monkeypatch.setattr('cotap_mm.distributed.timeouts._MIN_SILENCE', 0)
    shared, logs = make_folders(tmp_path, 'shared', 'logs')
    with Ranks(OneIsLost(shared, getattr(signal, how)), logs, timeout=5) as ranks:
        assert ranks.exit_code(0) == 1, 'hangs'
        message = (shared / 'message').read_text()
        assert message.startswith(
            f'PeerFailed: neighbors of n.npy: rank 0: rank 1 (process {ranks.pid(1)} on '
        ), message
    assert build(shared)['seen'] < 23  # it resumes where they stopped


@pytest.mark.parametrize('pattern', ['*.features.*', '*.features.*[0-9]', '*.json'])
def test_deleted_features_abort_a_build(tmp_path, pattern):
    encoder = Encoder()

    def delete():
        for path in tmp_path.glob(pattern):
            path.unlink()

    encoder.at_end = delete
    with time_limit(60), pytest.raises(UserError, match='features.* was damaged or deleted while'):
        build(tmp_path, encoder)
    assert build(tmp_path)['seen'] > 0


@forked
@pytest.mark.dist
def test_features_that_are_deleted_while_others_need_them_abort_all_ranks(tmp_path):
    shared, logs = make_folders(tmp_path, 'shared', 'logs')
    with Ranks(OneDeletes(shared), logs) as ranks:
        assert ranks.exit_code(1) == 1, 'hangs'
        assert f'rank 0 (process {ranks.pid(0)} on ' in ranks.log(1)
        assert 'failed: UserError: ' in ranks.log(1)
        assert 'deleted while the neighbors of n.npy were being built' in ranks.log(1)
    assert build(shared)['seen'] > 0


@pytest.mark.slow
@forked
@pytest.mark.parametrize('delay', [0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize('other', ['same', 'other'])
def test_two_runs_build_one_file(tmp_path, delay, other):
    shared, alone = make_folders(tmp_path, 'shared', 'alone')
    results = FORK.Queue()
    runs = [
        FORK.Process(target=build_slowly, args=(shared, *args, results))
        for args in (('same', 0), (other, delay))
    ]
    for run in runs:
        run.start()
    found = [results.get(timeout=120) for _ in runs]
    for run in runs:
        run.join(60)
    results_of_both = {str(seen) for seen, _, _ in found}
    if max(start for _, start, _ in found) > min(end for _, _, end in found):
        assert results_of_both == {'23'}  # on a busy machine one started after the other
    elif other == 'same':
        assert results_of_both == {'0', '23'}
    else:
        assert results_of_both == {
            '23',
            (
                f'{shared / "n.npy"} was just written by another process, for other images or '
                'settings; choose another --out'
            ),
        }
    assert np.array_equal(np.load(shared / 'n.npy'), build(alone)['indices'])
    assert [path.name for path in shared.iterdir()] == ['n.npy']


@forked
def test_a_killed_run_releases_the_lock(tmp_path):
    run = FORK.Process(target=build_slowly, args=(tmp_path, 'same', 0, FORK.Queue()))
    run.start()
    while not list(tmp_path.glob('n.npy.features.*.00001')):
        time.sleep(0.05)
    run.kill()
    run.join()
    assert (tmp_path / 'n.npy.lock').exists()
    build_slowly(tmp_path, 'same', 0, results := FORK.Queue())
    assert results.get(timeout=60)[0] < 23
    assert [path.name for path in tmp_path.iterdir()] == ['n.npy']


def test_an_existing_file_is_not_built_again(tmp_path, monkeypatch):
    first, second = make_config(4), make_config(4)
    ensure_neighbors(first, tmp_path)
    monkeypatch.setattr(auto_neighbors, 'build_neighbors', lambda *_, **__: pytest.fail('built'))
    ensure_neighbors(second, tmp_path)
    assert second.train_dataloader.dataset == first.train_dataloader.dataset


def test_too_few_images(tmp_path):
    with pytest.raises(ValueError, match='at least 2 images'):
        ensure_neighbors(make_config(1), tmp_path)
    assert not list(tmp_path.iterdir())
