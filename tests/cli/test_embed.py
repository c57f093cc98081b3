"""``cotap embed`` writes what ``cotap_mm.embed`` writes, and prints what it contains."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest

import cotap_mm
from cotap_mm.cli.embed import main, parse_args
from cotap_mm.cli.main import cotap
from tests.helpers.tiny import write_checkpoint
from tests.helpers.toy_config import write_noise


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / 'iter_1.pth')
    rng = np.random.default_rng(0)
    for index in range(3):
        write_noise(tmp_path / f'images/{index}.png', rng)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['cotap'])
    return tmp_path


WORDS = 'iter_1.pth --images images --out f.npz --device cpu --workers 0 --size 32'


def run(*more):
    cotap(['embed', *WORDS.split(), *more])


def test_command(place, capsys, log):
    (place / 'images/bad.jpg').write_text('x')
    run('--features', 'cls', 'patches', '--dtype', 'float16')
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == '3 images -> f.npz: cls 3 x 32, patches 3 x 32 x 4 x 4, 1 skipped'
    found = cotap_mm.read_features('f.npz')
    assert list(found.skipped) == ['bad.jpg'] and found['cls'].dtype == np.float16
    run('--features', 'cls', 'patches', '--dtype', 'float16')
    assert 'f.npz has these features already' in log.text
    with pytest.raises(SystemExit, match='--overwrite'):
        run()


@pytest.mark.parametrize(
    'words, size', [('', [224]), ('--size 32 64', [32, 64]), ('--size original', None)]
)
def test_size(words, size):
    args = parse_args(['a', '--images', 'b', '--out', 'c.npz', '--device', 'cpu', *words.split()])
    assert args.size == size


def test_a_signal_keeps_complete_parts(place, capsys, monkeypatch):
    monkeypatch.setattr('cotap_mm.embedding.embed._ROWS', 1)
    batches = []

    def stop_at_second():
        batches.append(1)
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr('cotap_mm.embedding.compute.show_progress', stop_at_second)
    with pytest.raises(SystemExit) as end:
        main(WORDS.split())
    assert end.value.code == 75
    assert '1 of 3 images are saved; the same command continues' in capsys.readouterr().err
    main(WORDS.split())
    assert len(batches) == 4 and len(cotap_mm.read_features('f.npz')) == 3
