"""tools/publish.py prints the path of the written file, and reports errors in one sentence."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.helpers.tiny import CONFIG, build_tiny
from tests.helpers.tool_loading import load_tool


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the tool in this process, in a temporary folder."""

    def start(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['publish.py', *arguments])
        load_tool('publish').main()

    return start


def test_publish_prints_the_written_file(run, tmp_path, capsys):
    model = build_tiny()
    torch.save(
        dict(state_dict=model.state_dict(), optimizer={}, meta=dict(cfg=CONFIG)),
        tmp_path / 'iter_1.pth',
    )
    run('iter_1.pth', 'tiny.pth', '--license', 'MIT', '--network', 'teacher')
    written = tmp_path / capsys.readouterr().out.strip()
    assert written.name.startswith('tiny-') and written.is_file()
    content = torch.load(written, weights_only=True)
    assert content['meta']['license'] == 'MIT' and content['meta']['branch'] == 'teacher'
    assert torch.equal(
        content['state_dict']['backbone.pos_embed'], model.teacher.backbone.pos_embed
    )


def test_errors_are_one_sentence(run):
    with pytest.raises(SystemExit, match='error: checkpoint nowhere.pth is not a file'):
        run('nowhere.pth', 'tiny.pth', '--license', 'MIT')
    with pytest.raises(SystemExit, match='error: license must not be empty'):
        run('nowhere.pth', 'tiny.pth', '--license', ' ')
    with pytest.raises(SystemExit) as ended:  # argparse: the license is required
        run('nowhere.pth', 'tiny.pth')
    assert ended.value.code == 2


def test_existing_files_are_kept(run, tmp_path):
    """The written file has the hash in its name, so even OUT = CHECKPOINT overwrites nothing."""
    for name in ('iter_1.pth', 'mine.pth'):
        torch.save(
            dict(state_dict=build_tiny().state_dict(), meta=dict(cfg=CONFIG)), tmp_path / name
        )
    before = {name: (tmp_path / name).read_bytes() for name in ('iter_1.pth', 'mine.pth')}
    for name in before:
        run('iter_1.pth', name, '--license', 'MIT')
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(list(tmp_path.glob('*-????????.pth'))) == 2 == len(list(tmp_path.iterdir())) - 2
