"""The arrows of the package point down, nothing goes in circles, and folders stay small."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'cotap_mm'
# "Arrows go down only": a part may import from those above it in this list, and from no other.
# Parts that share a row do not know each other.
ORDER = [
    ['version', 'error_text', 'registry', 'rules', 'signals', 'deprecation', 'random_state'],
    ['errors', 'environment'],
    ['files', 'compat'],
    ['diagnosis'],
    ['command_line', 'distributed'],
    ['progress'],
    ['ops'],
    ['datasets'],
    ['weights'],
    ['models', 'downstream'],
    ['encoders'],
    ['embedding'],
    ['bridges', 'evaluation', 'export'],
    ['visualization'],
    ['engine'],
    ['planning'],
    ['commands'],
    ['cli'],
    ['__main__', 'api'],  # functions of Python take the defaults of the command lines
]
# The same inside of a part.
INNER_ORDER = {
    'datasets': [
        ['permutation', 'sources'],
        ['opened', 'samplers', 'shared_parts', 'workers', 'wrapped'],
        ['loader_watch', 'read_with_retry', 'toy', 'transforms'],
        ['collate', 'decoded_images', 'neighbors'],
        ['branch_source', 'training_sample'],
        ['neighbor_pairs'],
    ],
    'engine': [
        ['late_values'],
        ['adaptation', 'auto_neighbors', 'backbones', 'optim'],
        ['resume'],
        ['hooks'],
        ['data_checks', 'shape', 'trial_build'],
        ['launch'],
    ],
    'evaluation': [
        ['data'],
        ['settings', 'separate_arguments', 'metrics', 'class_presence', 'batches', 'growing_rows'],
        ['presence_metric', 'protocols'],
        ['evaluate'],
        ['hook'],
    ],
    'models': [
        ['device_jpegs', 'step_batch', 'lean_saving'],
        ['device_crops'],
        ['modules', 'losses', 'heads', 'data_preprocessor', 'necks'],
        ['backbones'],
        ['algorithms'],
    ],
    'visualization': [['errors'], ['figures'], ['report'], ['viewer']],
}
# Imports inside of functions, with their reasons; none of them hides an arrow.
LATE = {
    ('cotap_mm.commands.viewer', 'cotap_mm.visualization.viewer.app'): 'needs Gradio',
    ('cotap_mm.evaluation.data.mmseg_images', 'cotap_mm.downstream'): 'needs MMSegmentation',
}
LARGEST_FOLDER = 14
LARGER = {
    'cotap_mm/cli': 20,
    'cotap_mm/visualization/figures': 18,
}  # a file per command, per picture


def read_modules(package):
    """Dotted names of the modules below a folder, with their files."""
    modules = {}
    for path in package.rglob('*.py'):
        parts = [package.name, *path.relative_to(package).with_suffix('').parts]
        if '.mim' not in parts:  # links to configs and tools
            modules['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return modules


def statements(body, late=False):
    """All statements, and whether they are inside of a function."""
    for node in body:
        yield node, late
        inner = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for part in ('body', 'orelse', 'finalbody', 'handlers', 'cases'):
            yield from statements(getattr(node, part, ()), inner)


def read_imports(modules):
    """Imports of a package's own modules: (importer, imported, whether inside of a function)."""
    found = set()
    for name, path in modules.items():
        package = name if path.name == '__init__.py' else name.rpartition('.')[0]
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for node, late in statements(tree.body):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ''
                if node.level:
                    above = package.split('.')[: len(package.split('.')) - node.level + 1]
                    base = '.'.join([*above, *([base] if base else [])])
                whole = [f'{base}.{alias.name}' for alias in node.names]
                targets = [each if each in modules else base for each in whole]
            else:
                continue
            found |= {(name, each, late) for each in targets if each in modules}
    return found


def upward(imports, order, package='cotap_mm'):
    """Imports that do not go down, between the parts of one package."""
    level = {part: number for number, row in enumerate(order) for part in row}
    wrong = []
    for importer, imported, _ in sorted(imports):
        inner = [name[len(package) + 1 :].split('.')[0] for name in (importer, imported)]
        inside = all(name.startswith(f'{package}.') for name in (importer, imported))
        if inside and inner[0] != inner[1] and level[inner[0]] <= level[inner[1]]:
            wrong.append(f'{importer} -> {imported}')
    return wrong


def circle(imports):
    """Modules that import each other in a circle, or an empty list."""
    arrows = defaultdict(set)
    for importer, imported, _ in imports:
        if importer != imported:
            arrows[importer].add(imported)
    done = set()

    def visit(name, way):
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows[name]):
            found = visit(other, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, []))), [])


@pytest.fixture(scope='module')
def imports():
    return read_imports(read_modules(PACKAGE))


def test_arrows_go_down(imports):
    assert upward(imports, ORDER) == []


@pytest.mark.parametrize('part', INNER_ORDER)
def test_arrows_go_down_inside_of_a_part(imports, part):
    assert upward(imports, INNER_ORDER[part], f'cotap_mm.{part}') == []


def test_every_part_has_its_place():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or path.is_dir()}
    listed = {part for row in ORDER for part in row}
    assert parts - {'__init__', '__pycache__', 'assets', '.mim'} == listed


def test_nothing_goes_in_circles(imports):
    assert circle(imports) == []


def test_no_import_in_a_function_hides_an_arrow(imports):
    late = {(importer, imported) for importer, imported, late in imports if late}
    # Command lines are parsed before the imports that take seconds.
    assert {each for each in late if not each[0].startswith('cotap_mm.cli.')} == set(LATE)


def test_folders_are_small():
    sizes = {
        str(folder.relative_to(PACKAGE.parent)): len(list(folder.glob('*.py')))
        for folder in [PACKAGE, *PACKAGE.rglob('*/')]
        if '.mim' not in folder.parts
    }
    limits = {name: LARGER.get(name, LARGEST_FOLDER) for name in sizes}
    assert {name: size for name, size in sizes.items() if size > limits[name]} == {}


def test_these_tests_can_fail(tmp_path):
    (tmp_path / 'p' / 'low').mkdir(parents=True)
    (tmp_path / 'p' / '__init__.py').write_text('')
    (tmp_path / 'p' / 'low' / '__init__.py').write_text('def f():\n    from ..high import x\n')
    (tmp_path / 'p' / 'high.py').write_text('from p import low\nfrom .other import y\nx = low\n')
    (tmp_path / 'p' / 'other.py').write_text('import os, p.low\ny = os\n')
    imports = read_imports(read_modules(tmp_path / 'p'))
    assert imports == {
        ('p.low', 'p.high', True),
        ('p.high', 'p.low', False),
        ('p.high', 'p.other', False),
        ('p.other', 'p.low', False),
    }
    order = [['low'], ['other', 'high']]
    assert upward(imports, order, 'p') == ['p.high -> p.other', 'p.low -> p.high']
    assert circle(imports) == ['p.high', 'p.low', 'p.high']
    assert circle(imports - {('p.low', 'p.high', True)}) == []
