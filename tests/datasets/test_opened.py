"""Image sources are opened once in a training."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from mmengine.config import ConfigDict

from cotap_mm.datasets.neighbors import file as neighbor_file
from cotap_mm.datasets.opened import forget_sources, hand_on, open_source
from cotap_mm.datasets.sources import files
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import as_text, toy_options, write_noise


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        write_noise(tmp_path / 'photos' / f'{index}.png', rng, (48, 48))
    return tmp_path


def test_handed_on_once_for_an_equal_config(folder):
    config = dict(type='ImageList', root=str(folder / 'photos'))
    source = open_source(config)
    hand_on(ConfigDict(config), source)
    other = open_source(dict(config, value_range=None))
    assert other is not source and other.value_range is None
    assert open_source(config) is source
    assert open_source(config) is not source
    hand_on(config, source)
    hand_on(config, other)  # both branches have the same images
    assert open_source(config) is source and open_source(config) is other
    hand_on(config, source)
    forget_sources()
    assert open_source(config) is not source
    hand_on(config, source, use='evaluation')
    assert open_source(config) is not source  # of a training
    assert open_source(config, use='evaluation') is source


@pytest.mark.slow
@pytest.mark.parametrize('again', [(), ('--resume',), ('--dry-run',)])
def test_default_command_lists_images_and_reads_neighbors_once(folder, monkeypatch, again):
    monkeypatch.chdir(folder)
    small = toy_options(batch_size=2, iters=2)
    small['model']['init_cfg'] = None
    config = folder / 'tiny.py'
    base = load_tool('train').main.__globals__['__file__'].rsplit('cotap_mm', 1)[0]
    config.write_text(f"_base_ = '{base}configs/cotap/vits_folder.py'\n" + as_text(small))
    train = load_tool('train').main
    words = [str(config), '--images', 'photos', '--work-dir', 'run']
    if again == ('--resume',):
        train([*words, '--cfg-options', 'default_hooks.checkpoint.interval=1'])
        words += ['--cfg-options', 'train_cfg.max_iters=3']
    calls = Counter()
    scan, read = files.find_images, neighbor_file.open_rows
    monkeypatch.setattr(files, 'find_images', lambda root: calls.update('s') or scan(root))
    monkeypatch.setattr(neighbor_file, 'open_rows', lambda *args: calls.update('r') or read(*args))
    train([*words[:1], *again, *words[1:]])
    assert calls == (dict(s=1) if again == ('--dry-run',) else dict(s=1, r=1))
