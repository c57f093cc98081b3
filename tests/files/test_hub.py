"""Names on the Hugging Face hub, and its answers, by a hub on this machine."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip('huggingface_hub')

import huggingface_hub.constants  # noqa: E402

from cotap_mm.files.hub import HubName, hub_path, parse_hub_name  # noqa: E402
from cotap_mm.weights.formats.folders import choose_files  # noqa: E402
from tests.helpers.fake_hub import fake_hub  # noqa: E402

NAME = 'hf:user/repo'
WEIGHTS = {'config.json': b'{}', 'model.safetensors': b'new', 'pytorch_model.bin': b'old'}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path / 'cache') as hub:
        yield hub


def path_of(name):
    return hub_path(name, choose_files)


@pytest.mark.parametrize(
    'name, parts',
    [
        ('hf:user/repo', ('user/repo', None, None)),
        ('hf://user/repo', ('user/repo', None, None)),
        ('hf:user/repo@v1.0', ('user/repo', 'v1.0', None)),
        ('hf:user/repo/a/b.pth', ('user/repo', None, 'a/b.pth')),
        ('hf:u-s/re.po@main/b.pth', ('u-s/re.po', 'main', 'b.pth')),
        ('hf:user/repo@refs/pr/1/b.pth', ('user/repo', 'refs/pr/1', 'b.pth')),
        ('hf:user/repo@my%2Fbranch', ('user/repo', 'my/branch', None)),
    ],
)
def test_names(name, parts):
    assert parse_hub_name(name) == HubName(*parts)


@pytest.mark.parametrize(
    'name', ['hf:', 'hf:repo', 'hf:a/b@', 'hf:a/b/../c', 'hf:a b/c', 'hf:a/b@c@d']
)
def test_malformed_names(name):
    with pytest.raises(ValueError, match='hub is hf:USER/REPO, .*, got'):
        parse_hub_name(name)


@pytest.mark.parametrize(
    'files, read, needed',
    [
        (['config.json', 'pytorch_model.bin', 'model.safetensors'], '', ['model.safetensors']),
        (['pytorch_model.bin', 'training_args.bin'], '', ['pytorch_model.bin']),
        (['model.safetensors', 'cotap_filter.safetensors'], '', None),
        (
            [
                'model.safetensors.index.json',
                'model-00001-of-00002.safetensors',
                'model-00002-of-00002.safetensors',
                'pytorch_model-00001-of-00001.bin',
            ],
            '',
            [
                'model.safetensors.index.json',
                'model-00001-of-00002.safetensors',
                'model-00002-of-00002.safetensors',
            ],
        ),
        (['README.md', 'cotap-12345678.pth', 'optimizer.pt'], 'cotap-12345678.pth', None),
    ],
)
def test_which_files_are_read(files, read, needed):
    chosen, got = choose_files(NAME, files)
    expected = needed or [name for name in files if name not in ('README.md', 'optimizer.pt')]
    assert chosen == read
    assert [name for name in got if name != 'config.json'] == expected
    assert ('config.json' in got) == ('config.json' in files)


def test_unclear_files():
    with pytest.raises(ValueError, match='2 files of weights; choose .*: hf:user/repo/a.pth, hf:'):
        choose_files(NAME, ['a.pth', 'b.pt'])
    with pytest.raises(FileNotFoundError, match=r'no weights .*\*.pth.*, only README.md, x.onnx'):
        choose_files(NAME, ['README.md', 'x.onnx'])
    with pytest.raises(FileNotFoundError, match='no such file; weights: a.pth'):
        choose_files(NAME, ['a.pth'], 'b.pth')


def test_only_what_is_needed_is_downloaded_once(hub):
    hub.repos['user/repo'] = dict(WEIGHTS, **{'huge.onnx': b'x'})
    folder = path_of(NAME)
    assert (folder / 'model.safetensors').read_bytes() == b'new'
    assert sorted(hub.downloads) == ['config.json', 'model.safetensors']
    assert path_of(NAME) == folder
    assert len(hub.downloads) == 2
    assert path_of(f'{NAME}/pytorch_model.bin').read_bytes() == b'old'


def test_revisions(hub):
    hub.repos['user/repo'] = WEIGHTS
    first = hub.sha('user/repo')
    assert path_of(NAME).name == first
    hub.commits['user/repo', first] = WEIGHTS
    hub.repos['user/repo'] = dict(WEIGHTS, **{'model.safetensors': b'newer'})
    assert (path_of(NAME) / 'model.safetensors').read_bytes() == b'newer'
    assert (path_of(f'{NAME}@{first}') / 'model.safetensors').read_bytes() == b'new'
    with pytest.raises(FileNotFoundError, match='user/repo has no branch, tag or commit v9'):
        path_of(f'{NAME}@v9')


def test_denied_access(hub):
    hub.repos['user/gated'] = WEIGHTS
    hub.gated.add('user/gated')
    with pytest.raises(
        FileNotFoundError, match=r'accept its terms at http\S+/user/gated, then log'
    ):
        path_of('hf:user/gated')
    with pytest.raises(FileNotFoundError, match='hub has no model user/nobody, or it is private'):
        path_of('hf:user/nobody')


def test_offline(hub, monkeypatch):
    hub.repos['user/repo'] = WEIGHTS
    commit = path_of(NAME).name
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    hub.requests.clear()
    assert path_of(NAME).name == path_of(f'{NAME}@{commit}').name == commit
    assert hub.requests == []
    with pytest.raises(FileNotFoundError, match='not in the cache .* and HF_HUB_OFFLINE forbids'):
        path_of('hf:user/other')
    with pytest.raises(
        FileNotFoundError, match='hf:user/repo/pytorch_model.bin is not in the cache'
    ):
        path_of(f'{NAME}/pytorch_model.bin')


def test_a_cached_copy_is_used_if_the_hub_does_not_answer(hub, monkeypatch):
    hub.repos['user/repo'] = WEIGHTS
    commit = path_of(NAME).name
    monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', 'http://127.0.0.1:1')
    assert path_of(NAME).name == commit
    with pytest.raises(FileNotFoundError, match='cannot download hf:user/a .*--local-dir DIR') as e:
        path_of('hf:user/a')
    assert '\n' not in str(e.value)


def test_cache_that_another_program_has_written(monkeypatch, tmp_path):
    """The layout as documented: blobs, links in snapshots, and refs; one link is broken."""
    commit, repo = 'a' * 40, tmp_path / 'models--user--repo'
    (repo / 'blobs').mkdir(parents=True)
    (repo / 'blobs' / '1').write_bytes(b'weights')
    (repo / 'refs').mkdir()
    (repo / 'refs' / 'main').write_text(commit)
    snapshot = repo / 'snapshots' / commit
    snapshot.mkdir(parents=True)
    (snapshot / 'pytorch_model.bin').symlink_to('../../blobs/1')
    (snapshot / 'model.safetensors').symlink_to('../../blobs/2')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert (path_of(NAME) / 'pytorch_model.bin').read_bytes() == b'weights'
    shutil.rmtree(repo / 'blobs')
    with pytest.raises(FileNotFoundError, match='not in the cache'):
        path_of(NAME)


def test_errors_in_the_code_are_not_hidden(hub):
    hub.repos['user/repo'] = WEIGHTS

    def choose(name, files, file):
        raise KeyError('bug')

    with pytest.raises(KeyError, match='bug'):
        hub_path(NAME, choose)


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match='hf:user/repo needs the package huggingface_hub: pip'):
        path_of(NAME)
