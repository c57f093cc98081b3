"""Packages, files and options that are missing or wrong only when a tool has started."""

from __future__ import annotations

import logging
import re
import shlex
import sys

import pytest

from tests.helpers.mistakes import ending, listing
from tests.helpers.user_errors import NEIGHBORS


@pytest.mark.parametrize(
    'tool, arguments, package',
    [
        ('pack_dataset', '--images images --out o.lmdb', 'lmdb'),
        ('build_neighbors', f'--images images {NEIGHBORS} --faiss --num-neighbors 2', 'faiss'),
        ('build_neighbors', f'--images images {NEIGHBORS} --search ivf', 'faiss'),
        ('convert', 'iter_1.pth o.onnx --to onnx', 'onnx'),
        ('convert', 'iter_1.pth o.safetensors --to safetensors', 'safetensors'),
        ('viewer', 'iter_1.pth --images images --port 0', 'gradio'),
    ],
)
def test_missing_package_is_named(tools, place, capsys, monkeypatch, tool, arguments, package):
    main, before = tools(tool).main, listing(place)
    for name in [
        name
        for name in sys.modules
        if name.split('.')[0] == package or name == 'cotap_mm.visualization.viewer.app'
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    status, sentences, everything = ending(main, shlex.split(arguments), capsys)
    assert status == 1 and 'Traceback' not in everything, everything
    assert len(sentences) == 1 and re.search(f'pip install .*{package}', sentences[0]), everything
    assert listing(place) == before


@pytest.mark.parametrize(
    'option, text, neighbors',
    [
        ('model.neck.num_prototypes=0', 'num_prototypes: expected an integer >= 1', 0),
        ('randomness.foo=1', '--cfg-options randomness.foo=1: .* unexpected keyword argument', 1),
        ('train_dataloader.dataset.crops.global_scale=(2,1)', 'global_scale must be .* got .2', 0),
    ],
)
def test_failed_start_keeps_only_neighbors(
    tools, tmp_path, capsys, monkeypatch, option, text, neighbors
):
    """Computing them can take hours, and the next attempt needs them; most errors come before."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers refer to an earlier stderr
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'tiny.py').write_text('mine')
    status, sentences, everything = ending(
        tools('train').main,
        ['tiny.py', '--images', 'images', '--work-dir', tmp_path / 'run', '--cfg-options', option],
        capsys,
    )
    assert status == 1 and len(sentences) == 1 and re.search(text, sentences[0]), everything
    assert 'Traceback' not in everything
    left = [name for name, _ in listing(tmp_path / 'run')]
    assert left[neighbors:] == ['tiny.py']
    assert all(name.startswith('neighbors_') for name in left[:neighbors])


def test_a_neighbor_file_that_does_not_exist(tools, tmp_path, capsys):
    status, sentences, everything = ending(
        tools('train').main,
        [
            'tiny.py',
            '--images',
            'images',
            '--work-dir',
            tmp_path / 'run',
            '--neighbors',
            'nowhere.npz',
        ],
        capsys,
    )
    assert status == 1 and 'nowhere.npz does not exist' in sentences[0], everything
