"""tools/build_neighbors.py writes a file that training reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cotap_mm.commands.neighbors
from cotap_mm.datasets import ImageList, load_neighbors
from cotap_mm.datasets.neighbors import search
from cotap_mm.datasets.neighbors.searches import recall
from tests.helpers.tool_loading import help_of, load_tool
from tests.helpers.toy_config import write_noise

SCRIPT = Path(__file__).resolve().parents[2] / 'tools' / 'build_neighbors.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool('build_neighbors')


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    rng = np.random.default_rng(0)
    for i in range(5):
        write_noise(folder / f'{i}.png', rng, (20, 24))
    (folder / 'broken.png').write_bytes(b'no image')
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text(
        "model = dict(backbone=dict(type='DINOViT', img_size=16, patch_size=8, arch=dict("
        'embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8)))\n'
        "default_scope = 'cotap_mm'\n"
    )
    return str(path)


def test_the_file_can_be_loaded(tool, images, config, tmp_path, capsys):
    out = tmp_path / 'n.npy'
    tool.main(
        [
            '--images',
            str(images),
            '--backbone',
            config,
            '--checkpoint',
            'none',
            '--out',
            str(out),
            '--num-neighbors',
            '3',
            '--image-size',
            '16',
            '--workers',
            '0',
            '--device',
            'cpu',
        ]
    )
    names = ImageList(images).names
    found = load_neighbors(out, names, 3)
    assert found.shape == (6, 3) and names.index('broken.png') not in found
    assert '6 images -> ' in capsys.readouterr().out


def test_a_list_of_images(tool, images, config, tmp_path):
    (images / 'some.txt').write_text('3.png\n1.png\n2.png\n')
    out = tmp_path / 'n.npy'
    tool.main(
        [
            '--images',
            str(images / 'some.txt'),
            '--backbone',
            config,
            '--checkpoint',
            'none',
            '--out',
            str(out),
            '--image-size',
            '16',
            '--workers',
            '0',
            '--device',
            'cpu',
        ]
    )
    assert load_neighbors(out, ['3.png', '1.png', '2.png'], 2).shape == (3, 2)


def test_the_cost_comes_before_the_features(tool, images, config, tmp_path, log, monkeypatch):
    monkeypatch.setattr(recall, 'MANY', 5)
    monkeypatch.setattr(search, 'extract_features', lambda *args: sys.exit('features'))
    words = f'--images {images} --backbone {config} --checkpoint none --out {tmp_path / "n.npy"}'
    for option in ('exact', 'ivf'):
        with pytest.raises(SystemExit, match='features'):
            tool.main([*words.split(), '--image-size', '16', '--device', 'cpu', '--search', option])
        printed, _ = log.text, log.clear()
        assert ('6 x 6 products. This grows' in printed) == (option == 'exact')
        assert ('--search ivf takes less' in printed) == (option == 'exact')


@pytest.mark.parametrize(
    'options, message',
    [
        (['--backbone', 'deit-small'], 'deit-small needs weights: give --checkpoint FILE'),
        (['--backbone', 'configs/cotap/nothing.py'], 'nothing.py does not exist'),
        (['--backbone', 'deit-small', '--checkpoint', 'nowhere.pth'], 'nowhere.pth'),
    ],
)
def test_errors_are_one_sentence(tool, images, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message) as error:
        tool.main(['--images', str(images), '--out', str(tmp_path / 'n.npy'), *options])
    assert str(error.value).startswith('error: ')
    with pytest.raises(SystemExit, match='image folder .* does not exist'):
        tool.main(
            ['--images', str(tmp_path / 'nowhere'), '--out', str(tmp_path / 'n.npy'), *options]
        )


def test_the_default_backbone_is_that_of_the_method(tool):
    args = tool.parse_args(['--images', 'images', '--out', 'n.npy'])
    assert args.image_size == 224
    backbone, checkpoint = cotap_mm.commands.neighbors.choose_backbone(args)
    assert (backbone['arch'], backbone['patch_size']) == ('deit-base', 16)
    assert 'dino_vitbase16' in checkpoint


@pytest.mark.slow
def test_help():
    assert '--num-neighbors' in help_of(SCRIPT.stem)


@pytest.mark.slow
def test_a_missing_folder_exits_without_a_traceback(tmp_path):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / 'nowhere'), '--out', str(tmp_path / 'n.npy')],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert f'error: image folder {tmp_path / "nowhere"} does not exist' in result.stderr
    assert not (tmp_path / 'n.npy').exists()
