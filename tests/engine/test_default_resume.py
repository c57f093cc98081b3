"""Resume with the options that users type: ``neighbors='auto'``, an init, shipped configs."""
import os
import shutil

import pytest
import torch
from engine import default_runs
from engine.default_runs import CONFIGS, arguments, make_images, make_init, write_toy_config
from engine.test_exact_resume import assert_same, saved
from mmengine.config import Config


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    """Most of the time that a Runner needs to start goes into a pretty config."""
    monkeypatch.setattr(Config, 'pretty_text', property(default_runs.plain_text))


@pytest.fixture
def folder(tmp_path):
    make_images(tmp_path / 'images')
    make_init(tmp_path / 'init.pth')
    return tmp_path


def neighbor_files(folder):
    return sorted(path.name for path in folder.glob('neighbors_*'))


@pytest.mark.parametrize('name', sorted(path.stem for path in CONFIGS.glob('*.py')))
def test_every_shipped_config(folder, name):
    write_toy_config(folder, name)
    if 'in1k' in name:
        make_images(folder / 'cls', count=8, seed=1)
    words = arguments(folder, name)
    default_runs.run([*words, '--seed', 3, '--work-dir', folder / 'whole'])
    default_runs.run([*words, '--seed', 3, '--work-dir', folder / 'killed'], kill_at=3)
    (folder / 'init.pth').unlink()  # what a run needs once, it does not need again
    default_runs.run([*words, '--work-dir', folder / 'killed', '--resume'], may_search=False)
    assert_same(saved(folder / 'killed', 4), saved(folder / 'whole', 4))
    assert neighbor_files(folder / 'killed') == neighbor_files(folder / 'whole')
    assert len(neighbor_files(folder / 'whole')) == 1 + ('in1k' in name)
