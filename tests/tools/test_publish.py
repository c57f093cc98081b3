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


@pytest.mark.parametrize(
    'cfg',
    [
        "started_from = dict(weights='hf:facebook/dinov3-vits16-pretrain-lvd1689m')",
        'model = dict(backbone=dict(arch=dict(num_heads=2), init_cfg=dict('
        "checkpoint='/x/dinov3_vits16_pretrain_lvd1689m-08c60483.pth')))",
    ],
)
def test_another_license_than_that_of_the_initial_weights(run, tmp_path, capsys, cfg):
    meta = dict(cfg=f'{CONFIG}\n{cfg}')
    torch.save(dict(state_dict=build_tiny().state_dict(), meta=meta), tmp_path / 'iter_1.pth')
    wanted = r'error: the initial weights \(DINOv3\) .* dinov3-license .* allow mit .*--i-have-che'
    for more in ((), ('--format', 'timm')):
        with pytest.raises(SystemExit, match=wanted):
            run('iter_1.pth', 'out' if more else 'out.pth', '--license', 'mit', *more)
    assert [path.name for path in tmp_path.iterdir()] == ['iter_1.pth']
    run('iter_1.pth', 'out.pth', '--license', 'mit', '--i-have-checked')
    content = torch.load(tmp_path / capsys.readouterr().out.strip(), weights_only=True)
    assert content['meta']['license'] == 'mit'
    assert content['meta']['derived_from']['license'] == 'dinov3-license'
    run('iter_1.pth', 'other.pth', '--license', 'DINOv3 License')
    assert (tmp_path / capsys.readouterr().out.strip()).is_file()


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
