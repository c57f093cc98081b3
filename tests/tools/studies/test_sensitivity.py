"""The sensitivity study: keys exist, values reach the network, a toy run fills the page."""

from __future__ import annotations

import json

import pytest
import sensitivity
import study
from mmengine.config import Config

from cotap_mm.registry import MODELS, build

DEMO = str(study.ROOT / 'configs' / 'cotap' / 'demo.py')
TINY = f"""
_base_ = {DEMO!r}
head = dict(num_clusters=4, hidden_channels=8, out_channels=8)
model = dict(
    init_cfg=None,
    backbone=dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
                  img_size=32),
    head=dict(patch=head, cls=head), neck=dict(num_prototypes=2),
    memory=dict(patch_queue=dict(size=64, per_step=8), cls_queue=dict(size=16, per_step=4),
                template_bank=dict(size=16, per_step=2)),
    pairs=dict(pool_sizes=(2, 4), topk=2, num_negatives=1))
train_dataloader = dict(dataset=dict(num_neighbors=2, patch=dict(image_size=32),
                                     crops=dict(global_size=32, local_size=16)))
demo = dict(memory=dict(image_size=32), test=dict(image_size=32))
"""
JOB = dict(
    config=DEMO, key=None, value=None, seed=0, iters=3, batch_size=4, train_images=8, images=4
)


def test_defaults_are_among_the_values():
    config = Config.fromfile(DEMO)
    for name, parameter in sensitivity.PARAMETERS.items():
        assert sensitivity.lookup(config, parameter.key) in parameter.values, name


@pytest.mark.parametrize(
    'name, read',
    [
        ('tau', lambda net: net.losses['patch_ranking'].tau),
        ('theta', lambda net: net.losses['patch_ranking'].threshold),
        ('alpha', lambda net: net.losses['patch_ranking'].negative_weight),
        ('M', lambda net: len(net.neck.prototypes)),
        ('pool sizes', lambda net: net.pairs.pool_sizes),
        ('patches', lambda net: net.pairs.topk),
        ('negatives', lambda net: net.pairs.num_negatives),
    ],
)
def test_values_reach_the_network(tmp_path, name, read):
    key, values, _ = sensitivity.PARAMETERS[name]
    config = sensitivity.make_config(dict(JOB, key=key, value=values[-1], work_dir=str(tmp_path)))
    config.model.init_cfg = None
    assert read(build(MODELS, config.model)) == values[-1]
    assert config.train_cfg.max_iters == 3 and config.train_dataloader.batch_size == 4


def test_unknown_key(tmp_path):
    with pytest.raises(ValueError, match="no model.pairs.topn: .* 'topn'.*num_negatives"):
        sensitivity.make_config(dict(JOB, key='model.pairs.topn', value=3, work_dir=str(tmp_path)))


def test_jobs():
    args = sensitivity.parse_args(['--parameters', 'tau', 'pool sizes', '--seeds', '0', '1'])
    jobs = sensitivity.make_jobs(args)
    # Before training, the defaults, and every other value, each once a seed.
    assert len(jobs) == 2 * (2 + 3 + 2)
    assert [job['iters'] for job in jobs[:2]] == [0, args.iters]
    assert [job['value'] for job in jobs if job['key'] == 'model.pairs.pool_sizes'] == [
        [4],
        [8],
        [4],
        [8],
    ]
    assert jobs[0]['config'] == 'configs/cotap/demo.py'


@pytest.mark.slow
def test_toy_run(tmp_path, monkeypatch):
    (tmp_path / 'tiny.py').write_text(TINY)
    alpha = sensitivity.PARAMETERS['alpha']._replace(values=(0.1, 1.0))
    monkeypatch.setitem(sensitivity.PARAMETERS, 'alpha', alpha)
    sensitivity.main(
        [
            '--config',
            str(tmp_path / 'tiny.py'),
            '--parameters',
            'alpha',
            '--seeds',
            '3',
            '--iters',
            '2',
            '--batch-size',
            '4',
            '--train-images',
            '8',
            '--images',
            '4',
            '--workers',
            '1',
            '--out',
            str(tmp_path),
            '--work-dir',
            str(tmp_path / 'work'),
        ]
    )
    results = json.loads((tmp_path / 'sensitivity.json').read_text())
    assert len(results['runs']) == 3
    assert all(0 <= run['mIoU'] <= 100 and 'work_dir' not in run for run in results['runs'])
    page = (tmp_path / 'sensitivity.md').read_text()
    assert page.count('| alpha |') == 2 and '| alpha | 0.1 (default) |' in page

    (tmp_path / 'sensitivity.png').unlink()
    sensitivity.main(['--plot-only', '--out', str(tmp_path)])
    assert (tmp_path / 'sensitivity.md').read_text() == page
    assert (tmp_path / 'sensitivity.png').is_file()


def test_differences_by_hand():
    runs = [
        dict(key=key, value=value, seed=seed, iters=5, mIoU=score)
        for key, value, scores in ((None, None, (50, 52)), ('k', [4], (51, 49)))
        for seed, score in enumerate(scores)
    ]
    results = dict(runs=runs, options=dict(seeds=[0, 1]))
    assert sensitivity.against_default(results, 'k', (4,)) == [1, -3]
