"""``cotap check`` looks at a folder and proposes a training that starts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cotap_mm.cli import check
from cotap_mm.cli.train import parse_args as parse_train
from cotap_mm.commands import check as command
from cotap_mm.planning import measure as measuring
from tests.helpers import mistakes
from tests.helpers.toy_config import write_noise


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        write_noise(tmp_path / 'images' / f'{index}.png', rng, (40, 48))
    (tmp_path / 'tiny.py').write_text(mistakes.CONFIG)
    return tmp_path


def report_of(folder, capsys, *words, status=0):
    arguments = ['--images', str(folder / 'images'), '--json', *words]
    if status:
        with pytest.raises(SystemExit) as end:
            check.main(arguments)
        assert end.value.code == status
    else:
        check.main(arguments)
    return json.loads(capsys.readouterr().out)


def test_report(folder, capsys):
    check.main(['--images', str(folder / 'images'), '--config', str(folder / 'tiny.py')])
    text = capsys.readouterr().out
    assert text.startswith(f'images     {folder}/images: 6\n')
    assert 'proposed training' in text and '6 images are few' in text
    words = text.splitlines()[-1].split()
    assert words[:2] == ['cotap', 'train'] and parse_train(words[2:]).images


def test_nothing_is_written(folder, capsys):
    before = sorted(folder.rglob('*'))
    report = report_of(folder, capsys, '--config', str(folder / 'tiny.py'), '--sample', '2')
    assert report['count'] == 6 and report['sampled'] == 2 and not report['measured']
    assert sorted(folder.rglob('*')) == before


def test_damaged_images_exit_with_1(folder, capsys):
    for index in range(4):
        (folder / 'images' / f'{index}.png').write_text('x')
    report = report_of(folder, capsys, '--config', str(folder / 'tiny.py'), status=1)
    assert len(report['unreadable']) == 4
    assert report['findings'][0]['level'] == 'error'


@pytest.mark.parametrize(
    'words, text',
    [
        (['--config', 'ade20k_upernet'], 'is for mmseg; give a config of configs/cotap'),
        (['--config', 'vits_foldr'], 'did you mean vits_folder'),
        (['--gpus', '64'], 'PyTorch finds'),
    ],
)
def test_user_errors(folder, words, text):
    with pytest.raises(SystemExit) as end:
        check.main(['--images', str(folder / 'images'), *words])
    assert text in str(end.value.code)


@pytest.mark.slow
def test_measured(folder, capsys):
    before = sorted(folder.rglob('*'))
    report = report_of(folder, capsys, '--config', str(folder / 'tiny.py'), '--measure')
    assert report['measured'] and 0 < report['hours'][0] == report['hours'][1]
    assert report['memory_bytes'] > 10**7
    assert sorted(folder.rglob('*')) == before


def test_a_batch_that_does_not_fit_is_halved(folder, capsys, monkeypatch):
    batches = []

    def dry_run(args, make_config):
        batches.append(args.cfg_options.get('train_dataloader.batch_size', 2))
        if batches[-1] > 1:
            raise ValueError('a training step runs out of GPU memory')
        return dict(seconds=0.5, waiting=0.4, memory=7.0)

    monkeypatch.setattr(measuring, '_dry_run', dry_run)
    report = report_of(folder, capsys, '--config', str(folder / 'tiny.py'), '--measure')
    assert batches == [4, 2, 1]
    assert (report['batch_per_device'], report['accumulation']) == (1, 8)
    assert report['memory_bytes'] == 7.0 and report['seconds_per_step'] == [0.5, 0.5]
    assert any('80% of a step is waiting for images' in text for text in report['reasons'])
    assert any('runs out of memory' in text for text in report['reasons'])


def test_logs_do_not_mix_with_the_report(folder, capsys, monkeypatch):
    def noisy(*args):
        print('noise')
        return real(*args)

    real = command._check
    monkeypatch.setattr(command, '_check', noisy)
    report_of(folder, capsys, '--config', str(folder / 'tiny.py'))
