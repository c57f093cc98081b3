"""The over-dispersion study at toy size."""

from __future__ import annotations

import json

import over_dispersion as tool
import pytest
from PIL import Image

from cotap_mm.registry import MODELS, build

SMALL = [
    '--cfg-options',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.dataset.patch.num_images=9',
]


def args(tmp_path, *more):
    return tool.parse_args(
        ['--out', str(tmp_path / 'docs'), '--work-dir', str(tmp_path / 'work'), *more]
    )


@pytest.mark.parametrize(
    'variant, losses, width',
    [
        ('cluster losses', {'patch_cluster', 'cls_cluster'}, 96),
        ('+ ranking', {'patch_cluster', 'cls_cluster', 'patch_ranking'}, 96),
        ('+ filter', {'patch_cluster', 'cls_cluster', 'prototype_entropy'}, 192),
        (
            'all',
            {'patch_cluster', 'cls_cluster', 'patch_ranking', 'cls_neighbor', 'prototype_entropy'},
            192,
        ),
    ],
)
def test_variants_differ_in_what_they_say(tmp_path, variant, losses, width):
    for data in ('toy', 'camvid'):
        job = dict(data=data, variant=variant, seed=1, iters=5)
        config = tool.make_config(job, args(tmp_path, '--camvid', 'frames'))
        model = build(MODELS, config.model)
        assert set(model.losses) == losses and model.neck.out_channels == width
        assert config.model.init_cfg.checkpoint == 'cotap_mm://toy_vit.pth'
        assert config.randomness.seed == 1 and config.train_cfg.max_iters == 5


@pytest.mark.slow
def test_toy_run_and_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tool, 'VARIANTS', {name: tool.VARIANTS[name] for name in ('cluster losses', 'all')}
    )
    given = ['--iters', '2', '--interval', '1', '--images', '3', *SMALL]
    folders = ['--out', str(tmp_path / 'docs'), '--work-dir', str(tmp_path / 'work')]
    tool.main([*folders, *given])
    results = json.loads((tmp_path / 'docs/over_dispersion.json').read_text())
    first, second = results['runs']
    assert [step for step, _ in first['filter within_instance']] == [0, 1, 2]
    assert [step for step, _ in second['backbone mIoU']] == [0, 2]
    # The same start, and then other losses.
    assert first['backbone within_instance'][0] == second['backbone within_instance'][0]
    assert first['backbone within_instance'][-1] != second['backbone within_instance'][-1]
    page = (tmp_path / 'docs/over_dispersion.md').read_text()
    value = second['filter within_instance'][-1][1]
    assert page.count('| toy |') == 4 and f'{value:.1f}' in page
    with Image.open(tmp_path / 'docs/over_dispersion.png') as picture:
        assert picture.size[0] > 600
    (tmp_path / 'docs/over_dispersion.png').unlink()
    tool.main([*folders, '--plot-only'])
    assert (tmp_path / 'docs/over_dispersion.png').is_file()
