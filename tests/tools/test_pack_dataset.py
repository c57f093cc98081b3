"""tools/pack_dataset.py packs the images of a list and reports failures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.helpers.tool_loading import load_tool

pytest.importorskip('lmdb', reason='lmdb is not installed')


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i in range(6):
        Image.new('RGB', (20, 30), (40 * i, 0, 0)).save(folder / f'{i}.png')
    return folder


@pytest.fixture(scope='module')
def tool():
    return load_tool('pack_dataset')


def test_packs_and_reports_the_result(tool, tmp_path, capsys):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(folder / f'{i}.png')
    (folder / 'list.txt').write_text('2.png\n0.png\nlost.png\n')
    tool.main(['--images', str(folder / 'list.txt'), '--out', str(tmp_path / 'a.lmdb')])
    output = capsys.readouterr().out
    assert (
        '3 images -> ' in output
        and '1 of them could not be read' in output
        and 'lost.png' in output
    )
    from cotap_mm.datasets import open_images

    packed = open_images(tmp_path / 'a.lmdb')
    assert packed.names == ['2.png', '0.png', 'lost.png'] and packed.read(0)[0, 0, 0] == 2


def test_packs_shards(tool, photos, tmp_path, capsys):
    out = tmp_path / 'shards'
    words = ['--images', str(photos), '--out', str(out), '--shard-size', '1KB', '--threads', '2']
    tool.main(words)
    assert '6 images -> ' in capsys.readouterr().out and len(list(out.glob('*.tar'))) > 1
    from cotap_mm.datasets import ImageList, open_images

    assert open_images(out).names == ImageList(photos).names


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nowhere', '--out', 'a.lmdb'], 'nowhere does not exist'),
        (['.', '--out', 'a.zip'], '[.]lmdb, got a.zip'),
        (['.', '--out', 'a.lmdb', '--shard-size', '1GB'], '--shard-size is for shards'),
        (['.', '--out', '.'], 'must be empty or a folder of cotap pack'),
        (['.', '--out', 'b', '--shard-size', 'much'], 2),
    ],
)
def test_errors_are_one_sentence(tool, tmp_path, monkeypatch, arguments, message):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    with pytest.raises(SystemExit, match=str(message)):
        tool.main(['--images', *arguments])
