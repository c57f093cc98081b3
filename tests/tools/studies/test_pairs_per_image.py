"""The study of pairs per image at toy size."""

from __future__ import annotations

import json

import numpy as np
import pairs_per_image as tool
import pytest
from PIL import Image

from cotap_mm.models import PatchPairSampler


def test_pairs_are_counted_as_they_are_made():
    import torch

    maps, foreground = torch.rand(8, 2, 3, 4, 4), torch.rand(8, 2, 4, 4)  # 4 images, 4 positives
    for topk, others in ((1, 5), (3, 2), (None, 5)):
        sampler = PatchPairSampler(pool_sizes=(2, 4), topk=topk, num_negatives=others)
        made = sum(len(pred) for pred, _, _ in sampler(maps, maps, foreground))
        assert 4 * tool.count_pairs(sampler, 2, 4) == made


@pytest.mark.slow
def test_run_and_its_page(tmp_path):
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (tmp_path / 'camvid' / kind / split).mkdir(parents=True)
        for index in range(9):
            pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f'camvid/images/{split}/{index}.jpg')
            labels = rng.integers(0, 11, (90, 120), dtype=np.uint8)
            Image.fromarray(labels).save(tmp_path / f'camvid/labels/{split}/{index}.png')
    folders = ['--out', str(tmp_path / 'docs'), '--work-dir', str(tmp_path / 'work')]
    tool.main(
        [
            *folders,
            '--camvid',
            str(tmp_path / 'camvid'),
            '--topk',
            '2',
            '0',
            '--seeds',
            '0',
            '--iters',
            '2',
            '--images',
            '3',
            '--cfg-options',
            'train_dataloader.batch_size=2',
            'train_dataloader.num_workers=0',
            'train_dataloader.persistent_workers=False',
        ]
    )
    few, all_ = json.loads((tmp_path / 'docs/pairs_per_image.json').read_text())['runs']
    assert few['topk'] == 2 and few['pairs'] == 2 * 2**2 * 2  # two grids, one other image
    assert all_['pairs'] == ((2 * 16) ** 2 + (2 * 64) ** 2) * 2
    for run in (few, all_):
        assert len(run['filter mIoU']) == 2 and run['step_seconds'] > 0
    assert few['filter mIoU'][0] == all_['filter mIoU'][0]  # the same start
    page = (tmp_path / 'docs/pairs_per_image.md').read_text()
    assert page.count('| filter | ') == 2 and f'{all_["pairs"]:,}' in page
    assert (tmp_path / 'docs/pairs_per_image.png').is_file()
