"""The noise study: a toy run that fills the page, and the tables of given results."""

from __future__ import annotations

import json

import noise_tables
import noise_tolerance
import pytest


@pytest.mark.slow
def test_quick_run_and_plot_again(tmp_path, capsys):
    arguments = [
        '--quick',
        '--out',
        str(tmp_path),
        '--work-dir',
        str(tmp_path / 'work'),
        '--objectives',
        'CoTAP',
        'MSE',
        'cross-entropy',
    ]
    noise_tolerance.main(arguments)
    results = json.loads((tmp_path / 'noise_tolerance.json').read_text())
    levels = {(run['noise'], run['level']) for run in results['runs']}
    assert levels == {('flip', 0.0), ('flip', 0.6), ('additive', 1.0)}
    assert len(results['runs']) == 3 * 3 * 2  # levels, objectives, seeds
    assert {run['split'] for run in results['runs']} == {'test'}
    assert results['options']['steps'] == 4
    assert {(each['split'], each['seed']) for each in results['trials']} == {('val', 1000)}
    # Additive noise does not reach cross-entropy.
    scores = {
        (run['noise'], run['level'], run['seed']): run['precision']
        for run in results['runs']
        if run['objective'] == 'cross-entropy'
    }
    assert scores['additive', 1.0, 0] == scores['flip', 0.0, 0] != scores['flip', 0.6, 0]
    page = (tmp_path / 'noise_tolerance.md').read_text()
    assert '| mixture, 50:1: flipped classes (share) | 0 | 0.6 |' in page

    (tmp_path / 'noise_tolerance.md').write_text(f'By hand.\n\n{page}')
    (tmp_path / 'noise_tolerance.png').unlink()
    noise_tolerance.main(['--plot-only', '--out', str(tmp_path)])
    assert (tmp_path / 'noise_tolerance.md').read_text() == f'By hand.\n\n{page}'
    assert (tmp_path / 'noise_tolerance.png').is_file()


@pytest.fixture
def results():
    """CoTAP beats MSE with both seeds without noise, and with one of two under flips."""
    scores = {
        ('CoTAP', 0.0): (50, 60),
        ('MSE', 0.0): (48, 56),
        ('CoTAP', 0.5): (40, 50),
        ('MSE', 0.5): (41, 47),
    }
    runs = [
        dict(
            data='digits',
            imbalance=1.0,
            noise='flip',
            level=level,
            objective=name,
            seed=seed,
            precision=value,
        )
        for (name, level), values in scores.items()
        for seed, value in enumerate(values)
    ]
    return dict(runs=runs, options=dict(seeds=[0, 1]))


def test_verdicts_by_hand(results):
    rows = noise_tables.verdicts(results).splitlines()[2:]
    assert rows[0] == '| no noise, 1:1 | +3.0 (1/0/1) |'
    assert rows[1] == '| flipped classes, 1:1 | +1.0 (0/0/1) |'
    assert len(rows) == 2  # no row for noise that was not run


def test_standings_by_hand(results):
    """CoTAP has 45 and MSE 44 under flips: CoTAP ranks first, MSE one point lower."""
    rows = noise_tables.standings(results).splitlines()[2:]
    assert rows == [
        '| CoTAP | 1.0; 0.0; 0.0 | (no noise) |',
        '| MSE | 2.0; 1.0; 1.0 | (no noise) |',
    ]


def test_tables_mark_the_best(results):
    text = noise_tables.tables(results, 'precision')
    assert '| CoTAP | **55.0 ± 7.1** | **45.0 ± 7.1** |' in text
    assert '| MSE | 52.0 ± 5.7 | 44.0 ± 4.2 |' in text


def test_tuning_goes_on_with_the_best_setting(monkeypatch, tmp_path):
    def work(job):
        peak = dict(CoTAP=0.5, MSE=None)[job['objective']]
        return dict(precision=50.0 * (job['setting'] == peak) + job['lr'])

    monkeypatch.setattr(noise_tolerance, 'train_and_measure', work)
    args = noise_tolerance.parse_args(['--lrs', '0.01', '0.1', '0.001', '--workers', '1'])
    cells = [
        dict(data='digits', imbalance=1.0, noise='flip', level=0.0, objective=name)
        for name in ('CoTAP', 'MSE')
    ]
    trials = noise_tolerance.tune(args, cells, tmp_path / 'store.jsonl')
    chosen = [(each['objective'], each['setting'], each['lr']) for each in trials if each['chosen']]
    assert chosen == [('CoTAP', 0.5, 0.1), ('MSE', None, 0.1)]
    assert len(trials) == (3 + 2) + (1 + 2)


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit, match='give --out another folder'):
        noise_tolerance.main(['--quick'])
    with pytest.raises(SystemExit):
        noise_tolerance.parse_args(['--seeds', '1000'])
    assert 'seed 1000 is for tuning' in capsys.readouterr().err
