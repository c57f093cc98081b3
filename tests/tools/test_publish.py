"""tools/publish.py prints the path of the written file, and reports errors in one sentence."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.helpers.fake_hub import fake_hub
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


def test_publish_a_folder_and_on_a_hub(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip('huggingface_hub')
    torch.save(
        dict(state_dict=build_tiny().state_dict(), meta=dict(cfg=CONFIG)), tmp_path / 'iter_1.pth'
    )
    base = ('--base-model', 'facebook/dino-vits16')
    run('iter_1.pth', 'folder', '--format', 'timm', *base, '--name', 'My ViT')
    assert capsys.readouterr().out == 'folder\n'
    text = (tmp_path / 'folder' / 'README.md').read_text()
    assert '# My ViT' in text and 'license: apache-2.0' in text
    monkeypatch.setenv('HF_TOKEN', 'hf_test')
    with fake_hub(monkeypatch, tmp_path / 'cache') as hub:
        run('iter_1.pth', '--to-hub', 'user/repo', '--private', *base)
        assert capsys.readouterr().out.endswith('/user/repo\n')
        assert 'model.safetensors' in hub.repos['user/repo'] and 'user/repo' in hub.private
        with pytest.raises(SystemExit, match='error: user/repo has files .*--overwrite'):
            run('iter_1.pth', '--to-hub', 'user/repo', *base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['folder', 'iter_1.pth']
