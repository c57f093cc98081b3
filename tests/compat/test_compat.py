"""Version checks and workarounds for known incompatibilities."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from cotap_mm.compat import compiled
from cotap_mm.compat import workarounds as compat
from cotap_mm.compat.safe_pickle import load_safely


def test_installed_versions_pass():
    compat.check_versions()


@pytest.mark.parametrize(
    'installed, message',
    [
        (None, r'mmengine >= 0.10.6 is required but not installed: pip install'),
        ('0.10.5', r'mmengine >= 0.10.6 is required, 0.10.5 is installed: pip install'),
    ],
)
def test_one_sentence_for_each_problem(installed, message):
    real = compat.installed_version

    def fake(names):
        return installed if 'mmengine' in names else real(names)

    with mock.patch.object(compat, 'installed_version', fake):
        with pytest.raises(ImportError, match=message):
            compat.check_versions()


def test_configs_of_forks_are_found_by_their_module(monkeypatch):
    table = dict(mmseg='mmsegmentation', mmaction='mmaction2', mmdet='mmdet')
    monkeypatch.setattr(compat, 'installed_version', lambda names: None)
    monkeypatch.setattr(compat.importlib.util, 'find_spec', lambda name: name == 'mmseg' or None)
    compat.find_forks(SimpleNamespace(MODULE2PACKAGE=table))
    assert table == dict(mmseg='mmseg', mmaction='mmaction2', mmdet='mmdet')


@pytest.mark.skipif(torch.__version__ < '2.6', reason='older versions do not load safely')
def test_a_fork_removes_only_what_it_has_added():
    fork = SimpleNamespace(get_torch_safe_globals=lambda: [HistoryBuffer, SimpleNamespace])
    compat.keep_safe_globals(fork)
    assert fork.get_torch_safe_globals() == [SimpleNamespace]
    plain = SimpleNamespace()
    compat.keep_safe_globals(plain)
    assert vars(plain) == {}


def test_old_names_that_only_mmengine_uses_are_not_reported():
    printed = []
    module = SimpleNamespace(print_log=lambda text, level: printed.append((text, level)))
    compat.keep_aliases_quiet(module)
    module.print_log('"FileClient" will be deprecated in future. Use others', level=30)
    module.print_log('disk is full', level=40)
    assert printed == [('disk is full', 40)]


def test_formats_of_forks_stay_as_they_are():
    config = SimpleNamespace()
    compat.format_once(config)
    assert vars(config) == {}


def test_version_numbers():
    assert compat.version_numbers('2.11.0+cu130') == (2, 11, 0)
    assert compat.version_numbers('0.10.7') > compat.version_numbers('0.9.12')
    assert compat.version_numbers('2.1.0rc1') >= (2, 1)


def test_a_fork_satisfies_the_check():
    with mock.patch('importlib.metadata.version') as version:
        import importlib.metadata

        def fake(name):
            if not name.startswith('onedl'):
                raise importlib.metadata.PackageNotFoundError(name)
            return '2.3.6'

        version.side_effect = fake
        assert compat.installed_version(('mmcv', 'mmcv-lite', 'onedl-mmcv')) == '2.3.6'


def load_as_mmengine(path):
    """Load safely, as MMEngine does with torch 2.6 and newer; before, with our own unpickler."""
    if compat.version_numbers(torch.__version__) < (2, 6):
        return load_safely(path)
    return torch.load(path, weights_only=True)


def test_mmengine_checkpoints_load_safely(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(
        message_hub=dict(loss=buffer), value=np.float64(3), array=np.arange(3), tensor=torch.ones(2)
    )
    torch.save(content, tmp_path / 'runner.pth')
    loaded = load_as_mmengine(tmp_path / 'runner.pth')
    assert loaded['message_hub']['loss'].mean() == 1.5
    assert loaded['value'] == 3 and loaded['array'].tolist() == [0, 1, 2]


class Hostile:
    """Unpickles to a call of ``getattr`` on something that is not a statistic."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, 'update')


def test_the_restricted_getattr_refuses_other_attributes(tmp_path):
    torch.save(Hostile(), tmp_path / 'hostile.pth')
    with pytest.raises(Exception, match='refused to look up'):
        load_as_mmengine(tmp_path / 'hostile.pth')


@pytest.mark.slow
def test_mmpretrain_models_import_with_transformers(python):
    """In a new process, since the workaround must be applied before the first import."""
    pytest.importorskip('transformers')
    pytest.importorskip('pycocotools')
    code = 'import cotap_mm.models, mmpretrain.models, transformers; print("imported")'
    done = subprocess.run([python, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'imported' in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_types_resolve_from_sibling_scopes(python, scope):
    """Like in a config of another library with ``custom_imports = dict(imports=['cotap_mm'])``.

    With transformers 5 this also makes that library importable.
    """
    code = (
        'import sys, cotap_mm; from mmengine.registry import MODELS, init_default_scope; '
        'init_default_scope(sys.argv[1]); '
        'print(MODELS.build(dict(type="cotap_mm.PatchRankingLoss")).tau)'
    )
    done = subprocess.run([python, '-c', code, scope], capture_output=True, text=True)
    assert done.returncode == 0 and '0.5' in done.stdout, done.stderr[-2000:]


def test_what_does_not_compile_is_not_compiled(monkeypatch):
    """As on a GPU without a C compiler; it is tried once."""
    from torch.utils import _triton

    messages, tries = [], []

    def fails(function, **_):
        tries.append(function)
        raise RuntimeError('Failed to find C compiler.\nPlease specify one')

    monkeypatch.setattr(compiled, 'print_log', lambda text, **_: messages.append(text))
    compiled.can_compile.cache_clear()
    try:
        monkeypatch.setattr(_triton, 'has_triton', lambda: True)
        monkeypatch.setattr(torch, 'compile', fails)
        assert not compiled.can_compile() and not compiled.can_compile()
        assert len(tries) == len(messages) == 1
        assert 'are not fused (Failed to find C compiler.). Triton needs a C' in messages[0]
        compiled.can_compile.cache_clear()
        monkeypatch.setattr(torch, 'compile', lambda function, **_: lambda x: function(x.cpu()))
        monkeypatch.setattr(torch, 'zeros', lambda *shape, device: torch.ones(*shape))
        assert compiled.can_compile() and len(messages) == 1
    finally:
        compiled.can_compile.cache_clear()
