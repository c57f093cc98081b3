"""The notebooks: their format, the names that they use, and a run of each."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import matplotlib
import pytest
import torch

from tests.helpers.tool_loading import import_what_trainings_use

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'notebooks'
NAMES = ['compare_backbones', 'fine_tune', 'first_look', 'own_images']
MOST_CELLS = 15
#: These run in a new interpreter, the others in a process forked from this one, without imports.
NEW = ['first_look'] if hasattr(os, 'fork') and not torch.cuda.is_available() else NAMES
#: Executes the code cells of argv[1] in one namespace, as a kernel does, but with few iterations.
RUNNER = """
import json, sys
cells = json.load(open(sys.argv[1], encoding='utf-8'))['cells']
namespace = {'__name__': '__main__'}
for cell in cells:
    if cell['cell_type'] == 'code':
        exec(compile(''.join(cell['source']), 'cell ' + cell['id'], 'exec'), namespace)
        if 'ITERATIONS' in namespace:
            namespace['ITERATIONS'] = 4
import matplotlib.pyplot as plt
print('figures:', len(plt.get_fignums()))
"""


def read(name):
    return json.loads((FOLDER / f'{name}.ipynb').read_text(encoding='utf-8'))


def code_of(name):
    cells = read(name)['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')


def public_names(module):
    """``__all__``; of the module of a command, which has none, its main."""
    return getattr(module, '__all__', ['main'] if '.cli.' in module.__name__ else [])


def test_there_are_four():
    assert sorted(path.stem for path in FOLDER.glob('*.ipynb')) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_format(name):
    book = read(name)
    assert (book['nbformat'], book['nbformat_minor']) == (4, 5)
    assert set(book) == {'cells', 'metadata', 'nbformat', 'nbformat_minor'}
    assert book['metadata']['kernelspec']['name'] == 'python3'
    cells = book['cells']
    assert 0 < len(cells) <= MOST_CELLS
    ids = [cell['id'] for cell in cells]
    assert len(set(ids)) == len(ids)
    for cell in cells:
        assert re.fullmatch(r'[a-zA-Z0-9_-]{1,64}', cell['id'])
        assert all(isinstance(line, str) for line in cell['source'])
        required = {'cell_type', 'id', 'metadata', 'source'}
        if cell['cell_type'] == 'code':
            required |= {'execution_count', 'outputs'}
            assert cell['outputs'] == [] and cell['execution_count'] is None
        else:
            assert cell['cell_type'] == 'markdown'
        assert set(cell) == required


@pytest.mark.parametrize('name', NAMES)
def test_the_first_code_cell_has_only_settings(name):
    first = next(cell for cell in read(name)['cells'] if cell['cell_type'] == 'code')
    assert 'SETTINGS' in first['source'][0]
    body = ast.parse(''.join(first['source'])).body
    assert all(isinstance(node, ast.Assign) for node in body)
    names = {node.targets[0].id for node in body}
    if name == 'compare_backbones':
        assert names == {'BACKBONES', 'CLASSES', 'OUT', 'ROOT', 'SIZE'}
    else:
        assert names >= {'CHECKPOINT', 'CONFIG', 'ITERATIONS', 'OUT'}
        assert names & {'IMAGES', 'ROOT'}


@pytest.mark.parametrize('name', NAMES)
def test_it_uses_public_names_only(name):
    tree = ast.parse(code_of(name))
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.split('.')[0] == 'cotap_mm':
                    assert each.name == 'cotap_mm'
                    aliases['cotap_mm'] = importlib.import_module('cotap_mm')
        elif isinstance(node, ast.ImportFrom) and node.module.split('.')[0] == 'cotap_mm':
            module = importlib.import_module(node.module)
            for each in node.names:
                if node.module == 'cotap_mm' and each.name not in module.__all__:
                    part = importlib.import_module(f'cotap_mm.{each.name}')
                    assert part.__all__, each.name
                    aliases[each.asname or each.name] = part
                else:
                    assert each.name in public_names(module), f'{node.module}.{each.name}'
    assert 'cotap_mm' in code_of(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = aliases.get(node.value.id)
            if module is not None:
                assert node.attr in module.__all__, f'{module.__name__}.{node.attr}'


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_to_files(name):
    text = '\n'.join(''.join(c['source']) for c in read(name)['cells'])
    for target in re.findall(r'\]\(([^)#]+)', text):
        assert (FOLDER / target).is_file(), target


def execute(path, folder, output):
    """Run a notebook in a new interpreter; return its exit status."""
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    with open(output, 'w') as file:
        return subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', RUNNER, str(path)],
            cwd=folder,
            env={**os.environ, 'MPLBACKEND': 'Agg', 'PYTHONPATH': modules},
            stdout=file,
            stderr=file,
        ).returncode


def execute_forked(path, folder, output):
    """Run a notebook in a forked process; return its exit status."""
    import_what_trainings_use()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with open(output, 'w') as file:
            sys.stdout = sys.stderr = file
            sys.argv = ['', str(path)]
            os.chdir(folder)
            matplotlib.use('Agg', force=True)
            try:
                exec(RUNNER, {})
                status = 0
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(status)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_it_runs_from_top_to_bottom(name, tmp_path):
    if name == 'fine_tune':
        pytest.importorskip('mmseg')
    folder, output = tmp_path / 'folder', tmp_path / 'output'
    folder.mkdir()
    status = (execute if name in NEW else execute_forked)(FOLDER / f'{name}.ipynb', folder, output)
    printed = output.read_text()
    assert status == 0, printed[-3000:]
    shown = int(re.search(r'^figures: (\d+)$', printed, re.M).group(1))
    assert shown >= 3  # Agg keeps figures that a notebook shows
    assert {each.name for each in folder.iterdir()} == {'work_dirs'}
    trains = name != 'compare_backbones'
    assert bool(list((folder / 'work_dirs').rglob('iter_*.pth'))) == trains
