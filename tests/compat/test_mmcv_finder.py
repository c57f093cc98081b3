"""Which module ``import mmcv._ext`` finds: compiled, stand-in, or an error with the way out."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cotap_mm.compat import workarounds
from cotap_mm.compat.mmcv_ops import extension, finder

ROOT = Path(__file__).resolve().parents[2]
MMCV = importlib.util.find_spec('mmcv')
FOLDER = Path(MMCV.submodule_search_locations[0]) if MMCV else Path()


def requested_names():
    """Names that MMCV's operators load from the extension."""
    names = set()
    for path in (FOLDER / 'ops').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('load_ext'):
                names |= set(ast.literal_eval(node.args[1]))
    return names


def test_the_stand_in_has_every_name_that_mmcv_asks_for():
    names = requested_names()
    assert len(names) > 100 and set(extension.__all__) <= names
    for name in names:
        assert callable(getattr(extension, name))
        assert (name in vars(extension)) == (name in extension.__all__)


def test_the_page_lists_every_operator():
    page = (ROOT / 'docs' / 'operators.md').read_text(encoding='utf-8')
    covered, missing = page.split('## Without a stand-in')
    listed = set(re.findall(r'`(\w+)`', covered)), set(re.findall(r'`(\w+)`', missing))
    assert set(extension.__all__) <= listed[0]
    assert requested_names() - set(extension.__all__) <= listed[1]
    assert not set(extension.__all__) & listed[1]


def test_an_operator_without_stand_in_raises_when_called():
    operator = extension.nms_rotated
    with pytest.raises(NotImplementedError, match="'nms_rotated' has no stand-in.*package mmcv"):
        operator(1, labels=2)


@pytest.mark.parametrize('name', ['__path__', '__wrapped__', '_private'])
def test_special_names_do_not_exist(name):
    assert not hasattr(extension, name)


def test_versions_of_compilers_are_texts():
    assert 'stand-in' in extension.get_compiler_version()
    assert 'stand-in' in extension.get_compiling_cuda_version()


def test_hooks_are_installed_once():
    before = list(sys.meta_path)
    assert [type(each).__name__ for each in before].count('StandInFinder') == 1
    assert [type(each).__name__ for each in before].count('CompiledFinder') == 1
    finder.install()
    assert sys.meta_path == before


def test_other_modules_are_left_alone():
    for hook in (finder.StandInFinder(), finder.CompiledFinder()):
        assert hook.find_spec('mmcv') is None and hook.find_spec('mmcv.ops', ['x']) is None


def test_the_installed_mmcv():
    """The compiled module if there is one, else the stand-in."""
    pytest.importorskip('mmcv.ops')
    loaded = importlib.import_module('mmcv._ext')
    compiled = list(FOLDER.glob('_ext.*'))
    if compiled:
        assert Path(loaded.__file__) in compiled and not hasattr(loaded, '__all__')
    else:
        assert Path(loaded.__file__).name == 'extension.py'
    assert importlib.import_module('mmcv.utils.ext_loader').check_ops_exist()


def test_find_loader_returns_in_python_3_14(monkeypatch):
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    finder._restore_find_loader()
    try:
        assert pkgutil.find_loader('mmcv._ext') is not None
        assert pkgutil.find_loader('not_a_module') is None
    finally:
        if 'find_loader' in vars(pkgutil):
            del pkgutil.find_loader  # monkeypatch restores the original


def test_a_broken_compiled_module_names_the_ways_out(tmp_path):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f'_ext{suffix}').write_bytes(b'not a library')
    spec = finder.CompiledFinder().find_spec('mmcv._ext', [str(tmp_path)])
    with pytest.raises(ImportError) as raised:
        importlib.util.module_from_spec(spec)
    assert re.search(
        r'the compiled operators of mmcv\S* .* do not load with torch \d.*compiled for another '
        r'version .*install mmcv\S* for this torch, or .*pip uninstall .*pip install mmcv-lite',
        str(raised.value),
    )


def test_two_distributions_are_refused(tmp_path, monkeypatch):
    for name in ('mmcv', 'mmcv-lite'):
        folder = tmp_path / f'{name.replace("-", "_")}-2.1.0.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n')
    workarounds.check_versions()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ImportError,
        match=r'mmcv 2.1.0 and mmcv-lite 2.1.0 are installed and overwrite each other.*'
        r'pip uninstall mmcv mmcv-lite, then install one of them',
    ):
        workarounds.check_versions()


def test_operators_that_stay_missing_are_reported_in_one_warning(monkeypatch):
    def fail(name):
        raise ImportError('undefined symbol: x')

    monkeypatch.setitem(sys.modules, 'mmcv.cnn.bricks.transformer', ModuleType('transformer'))
    monkeypatch.delitem(sys.modules, 'mmcv.ops', raising=False)
    monkeypatch.setattr(importlib, 'import_module', fail)
    with pytest.warns(UserWarning, match='without the operators.*undefined symbol: x') as warned:
        finder._repair()
    assert len(warned) == 1


def run_with_lite(python, folder, code):
    """Run code where MMCV is as the package mmcv-lite installs it: without ``_ext``."""
    package = folder / 'mmcv'
    package.mkdir()
    for path in FOLDER.iterdir():
        if not path.name.startswith('_ext'):
            (package / path.name).symlink_to(path)
    paths = [str(folder), str(ROOT), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
        [python, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.name, reason='MMCV is not installed')
def test_mmcv_lite_gets_the_stand_in(python, tmp_path):
    done = run_with_lite(
        python,
        tmp_path,
        'import sys, cotap_mm\n'
        'assert "mmcv._ext" not in sys.modules, "imported early"\n'
        'assert "cotap_mm.compat.mmcv_ops.boxes" not in sys.modules, "imported early"\n'
        'import torch, mmcv.ops\n'
        'from mmcv.cnn.bricks.transformer import MultiScaleDeformableAttention\n'
        'boxes, scores = torch.tensor([[0., 0, 9, 9], [1, 0, 9, 9]]), torch.tensor([.2, .3])\n'
        'print(mmcv.ops.nms(boxes, scores, .5)[1].tolist(), mmcv.ops.get_compiler_version())\n',
    )
    assert done.stdout.strip() == '[1] none (stand-in of cotap_mm)'


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.name, reason='MMCV is not installed')
def test_mmcv_cnn_that_was_imported_before_is_repaired(python, tmp_path):
    done = run_with_lite(
        python,
        tmp_path,
        'import sys\n'  # the .pth file of an installed cotap_mm would import it before mmcv
        'finders = [each for each in sys.meta_path if "ImportCoTAPFirst" not in repr(each)]\n'
        'sys.meta_path[:] = finders\n'
        'from mmcv.cnn.bricks import transformer\n'
        'name = "MultiScaleDeformableAttention"\n'
        'before = hasattr(transformer, name)\n'
        'import cotap_mm\n'
        'from mmengine.registry import MODELS\n'
        'print(before, hasattr(transformer, name), MODELS.get("DCN").__name__)\n',
    )
    assert done.stdout.strip() == 'False True DeformConv2dPack'
    assert 'cannot be imported now' not in done.stderr
