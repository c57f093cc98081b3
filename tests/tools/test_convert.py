"""tools/convert.py converts checkpoints, and reports errors in one sentence."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.foreign_weights import timm_names

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'convert.py'


@pytest.fixture
def run(monkeypatch):
    """Run the tool in this process, since importing torch again takes seconds."""

    def start(*arguments):
        monkeypatch.syspath_prepend(TOOL.parent)
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')

    return start


def test_convert_renames_tensors(run, tmp_path, capsys):
    torch.save(dict(student=timm_names(1), teacher=timm_names(2)), tmp_path / 'dino.pth')
    run(
        tmp_path / 'dino.pth',
        tmp_path / 'ours.pth',
        '--source',
        'dino',
        '--to',
        'mmpretrain',
        '--network',
        'student',
    )
    assert "student with names of 'dino': loaded 30 tensors" in capsys.readouterr().out
    weights = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
    wanted = timm_names(1)['blocks.1.mlp.fc2.bias']
    assert torch.equal(weights['layers.1.ffn.layers.1.bias'], wanted)


def test_errors_are_one_sentence(run, tmp_path):
    (tmp_path / 'ours.pth').touch()
    torch.save(timm_names(), tmp_path / 'vit.pth')
    with pytest.raises(SystemExit, match='error: .*ours.pth exists; give another name'):
        run(tmp_path / 'vit.pth', tmp_path / 'ours.pth')
    with pytest.raises(SystemExit, match="error: .*not of source='hf'"):
        run(tmp_path / 'vit.pth', tmp_path / 'ours.pth', '--source', 'hf', '--overwrite')
    with pytest.raises(SystemExit, match='error: .*nowhere.pth is not a file'):
        run(tmp_path / 'nowhere.pth', tmp_path / 'new.pth')


def test_help_lists_the_sources(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run('--help')
    assert ended.value.code == 0 and 'leopart' in capsys.readouterr().out
