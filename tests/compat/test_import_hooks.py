"""Changes of other libraries' modules when they are imported, and what importing us imports."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from cotap_mm.compat import import_hooks
from cotap_mm.compat.import_hooks import after_import, hide_from, run_after


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package ``some_library`` with a module ``part`` that nobody has imported."""
    folder = tmp_path / 'some_library'
    folder.mkdir()
    (folder / '__init__.py').write_text('from .part import VALUE\n')
    (folder / 'part.py').write_text('VALUE = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    for registered in ('changes', 'delays', 'hidden'):
        copy = dict(getattr(import_hooks._WATCHER, registered))
        monkeypatch.setattr(import_hooks._WATCHER, registered, copy)
    importlib.invalidate_caches()
    yield 'some_library'
    for name in [name for name in sys.modules if name.startswith('some_library')]:
        del sys.modules[name]


def double(module):
    module.VALUE *= 2


def test_a_module_is_changed_before_its_importers_see_it(library):
    after_import(f'{library}.part', double)
    after_import(f'{library}.part', double)
    assert f'{library}.part' not in sys.modules
    assert importlib.import_module(library).VALUE == 4
    part = sys.modules[f'{library}.part']
    # As without the change: inspect and pickle look at these.
    assert type(part.__loader__) is type(sys.modules[library].__loader__)
    assert part.__spec__.loader is part.__loader__ and part.__spec__.origin == part.__file__
    after_import(f'{library}.part', double)  # it is imported already
    assert part.VALUE == 8


def test_a_missing_module_stays_missing():
    after_import('no_such_library', double)
    with pytest.raises(ModuleNotFoundError, match='no_such_library'):
        importlib.import_module('no_such_library')


def test_a_module_waits_for_its_dependency(library, tmp_path):
    (tmp_path / 'some_library_dependency.py').write_text('')
    run_after(f'{library}.part', 'some_library_dependency', VALUE=None)
    package = importlib.import_module(library)
    part = sys.modules[f'{library}.part']
    assert package.VALUE is None and part.VALUE is None
    importlib.import_module('some_library_dependency')
    assert package.VALUE == 1 and part.VALUE == 1
    assert type(part.__loader__) is type(package.__loader__)


def test_a_module_does_not_wait_for_a_dependency_that_is_there(library):
    run_after(f'{library}.part', 'json', VALUE=None)
    assert importlib.import_module(library).VALUE == 1


def test_a_package_is_hidden_from_a_module_only(library, tmp_path):
    (tmp_path / library / 'part.py').write_text(
        'try:\n    import wave\n    VALUE = wave\nexcept ImportError:\n    VALUE = None\n'
    )
    hide_from(f'{library}.part', 'wave')
    sys.modules.pop('wave', None)
    package = importlib.import_module(library)
    assert package.VALUE is None and 'wave' not in sys.modules
    wave = importlib.import_module('wave')
    for name in (library, f'{library}.part'):
        del sys.modules[name]
    assert importlib.import_module(library).VALUE is wave  # it is imported already


@pytest.mark.slow
def test_mmengine_imports_transformers_when_its_optimizer_is_used(python):
    pytest.importorskip('transformers')
    code = """if True:
        import sys
        import cotap_mm, torch
        from mmengine.optim import build_optim_wrapper
        from mmengine.optim.optimizer.builder import TRANSFORMERS_OPTIMIZERS
        assert 'transformers' not in sys.modules and TRANSFORMERS_OPTIMIZERS == ['Adafactor']
        optimizer = dict(type='Adafactor', lr=0.5, relative_step=False)
        built = build_optim_wrapper(torch.nn.Linear(2, 2), dict(optimizer=optimizer)).optimizer
        from transformers import Adafactor
        assert type(built) is Adafactor and built.defaults['lr'] == 0.5
        """
    subprocess.run([python, '-c', code], check=True)


@pytest.mark.slow
def test_a_config_is_formatted_once(python):
    code = """if True:
        import mmengine.config.config as plain
        expected = plain.Config(dict(a=[1, dict(b='c')] * 9, d=None)).pretty_text
        import yapf.yapflib.yapf_api as api
        from cotap_mm.compat.workarounds import format_once
        calls = []
        def counted(*args, **kwargs):
            calls.append(args)
            return api.FormatCode(*args, **kwargs)
        plain.FormatCode = counted
        format_once(plain)
        config = plain.Config(dict(a=[1, dict(b='c')] * 9, d=None))
        assert config.pretty_text == config.pretty_text == expected and len(calls) == 1
        config.d = 5
        assert 'd = 5' in config.pretty_text and len(calls) == 2
        """
    subprocess.run([python, '-c', code], check=True)


@pytest.mark.slow
@pytest.mark.slow
def test_mmpretrain_does_not_import_mmdet(python):
    """Its models import all of MMDetection's for one layer, which must still be registered."""
    pytest.importorskip('mmdet')
    code = """if True:
        import sys
        import cotap_mm, mmpretrain.models as ours
        assert 'mmdet' not in sys.modules and ours.utils.ResLayerExtraNorm is None
        import mmdet.models
        from mmdet.registry import MODELS
        assert MODELS.get('ResLayerExtraNorm') is ours.utils.ResLayerExtraNorm is not None
        """
    subprocess.run([python, '-c', code], check=True)


def test_importing_the_package_imports_no_library():
    """So that it takes a tenth of a second; each of these takes longer than all of ours."""
    code = 'import sys, cotap_mm; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    top = {name.split('.')[0] for name in done.stdout.split()}
    heavy = {'torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'numpy', 'PIL', 'matplotlib'}
    assert 'cotap_mm' in top and not top & heavy
    assert len(done.stdout.split()) < 250


@pytest.mark.slow
def test_the_workarounds_reach_libraries_that_are_imported_later_or_before(python):
    check = (
        'import torch, mmengine.logging as log; '
        'assert log.HistoryBuffer in torch.serialization.get_safe_globals(); '
        'assert log.logger.MMFormatter.format.__name__ == "escaped"'
    )
    if not hasattr(__import__('torch').serialization, 'get_safe_globals'):
        pytest.skip('this torch does not load safely by default')
    for order in ('import cotap_mm', 'import mmengine.logging, cotap_mm'):
        code = f'{order}; {check}'
        subprocess.run([python, '-c', code], check=True)
