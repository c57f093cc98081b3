"""Train models of other libraries on images of more than 8 bits with tools/train.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.downstream.test_training import run, tool  # noqa: F401  (a fixture)


def to_12_bits(root):
    """Convert each JPEG to a gray 16-bit PNG with values up to 4095."""
    for path in sorted(root.rglob('*.jpg')):
        values = np.asarray(Image.open(path).convert('L'), dtype=float)
        values = (values - values.min()) / (values.max() - values.min()) * 4095
        Image.fromarray(values.round().astype(np.uint16)).save(path.with_suffix('.png'))
        path.unlink()
    for path in root.glob('*.json'):  # COCO annotations
        found = json.loads(path.read_text())
        for image in found['images']:
            image['file_name'] = image['file_name'].replace('.jpg', '.png')
        path.write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['camvid_linear', 'custom_mask-rcnn'])
def test_12_bits(run, tmp_path, name, capfd):  # noqa: F811
    """The library's transform causes a warning; ours gets the range, which is stored."""
    path, _ = run(name)
    to_12_bits(tmp_path / 'data' / name.split('_')[0])
    path.write_text(path.read_text().replace("'.jpg'", "'.png'"))
    arguments = ['--work-dir', str(tmp_path / 'run'), '--init', str(tmp_path / 'init.pth')]
    tool('train')([str(path), *arguments, '--dry-run'])
    printed = capfd.readouterr()
    warnings = [
        line
        for line in (printed.out + printed.err).splitlines()
        if 'more than 8 bits, which LoadImageFromFile' in line
    ]
    assert len(warnings) == 2 and all(
        "dict(type='cotap_mm.LoadImage', value_range=[0.0, 4095.0])" in line for line in warnings
    )

    path.write_text(path.read_text().replace('LoadImageFromFile', 'cotap_mm.LoadImage'))
    tool('train')([str(path), *arguments])
    said = capfd.readouterr()
    assert 'cotap_mm.LoadImage scales their values 0..4095 to 0..255' in said.out + said.err
    assert 'which LoadImageFromFile' not in said.out + said.err
    stored = Config.fromfile(tmp_path / 'run' / path.name)
    for part in ('train', 'val', 'test'):
        step = stored[f'{part}_dataloader'].dataset.pipeline[0]
        assert step.type == 'cotap_mm.LoadImage' and step.value_range == [0, 4095]
    checkpoint = next((tmp_path / 'run').glob('*.pth'))
    with pytest.raises(SystemExit, match='test with the config that the training has saved'):
        tool('test')([str(path), str(checkpoint), '--work-dir', str(tmp_path / 'tested')])
    tool('test')(
        [str(tmp_path / 'run' / path.name), str(checkpoint), '--work-dir', str(tmp_path / 'tested')]
    )
