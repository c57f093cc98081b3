"""Tools answer --help and wrong command lines before the imports that take seconds.

What is imported is counted, since seconds depend on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cotap_mm.command_line import choices
from cotap_mm.datasets.neighbors import feature_file
from cotap_mm.embedding import compute
from cotap_mm.embedding.file import FORMATS
from cotap_mm.evaluation.evaluate import PROTOCOLS
from cotap_mm.export import TARGETS
from cotap_mm.ops.ranking import average_precision
from cotap_mm.visualization.figures.projection import METHODS
from cotap_mm.visualization.report.kinds import KINDS
from cotap_mm.weights import SOURCES
from tests.helpers.tool_loading import TOOLS, load_tool

SLOW = (
    *('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'mmdet'),
    *('pandas', 'sklearn', 'matplotlib', 'transformers', 'faiss', 'scipy'),
)
NAMES = sorted(path.stem for path in TOOLS.glob('*.py') if path.stem != 'early_stop')
#: Wrong command lines of single tools -> what their error says. All of them end before anything
#: is imported, although some have options whose values need PyTorch or MMEngine.
WRONG = {
    'train CONFIG --bogus 1': 'unrecognized arguments: --bogus 1',
    'train CONFIG --seed x': "--seed: must be a whole number in [0, 4294967295], got 'x'",
    'train CONFIG --cfg-options a=1 --bogus': 'unrecognized arguments: --bogus',
    'train CONFIG --cfg-options a': "--cfg-options: must be KEY=VALUE, got 'a'",
    'convert A B --to tim': '(did you mean timm?)',
    'convert A B --source dyno': '(did you mean dino?)',
    'evaluate A --protocol knn --data toy --image-size 1 2 3': 'takes one or two numbers',
    'evaluate A --protocol knn --data toy --device cpu --bogus': 'arguments: --bogus',
    'visualize A --images B --out C --kinds pcb': '(did you mean pca?)',
    'visualize A --images B --out C --projection umap': '--projection: invalid choice',
    'viewer A B --root-path viewer': '--root-path: must be a path like /viewer',
    'viewer A B --port 65536': '--port: must be a whole number in [0, 65535]',
    'benchmark loss --methods fast': '--methods: invalid choice',
    'benchmark step': 'the following arguments are required: config',
}
# Runs command lines one after the other in one fresh process. A tool that imports a slow package
# would hide what later ones import, so each is reported with the packages that are new.
SCRIPT = """
import contextlib, io, json, runpy, sys

slow, tools, lines = json.loads(sys.argv[1])
sys.path.insert(0, tools)
before = set(slow) & set(sys.modules)
reports = []
for line in lines:
    sys.argv = [f'{tools}/{line[0]}.py', *line[1:]]
    text, status = io.StringIO(), None
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            runpy.run_path(sys.argv[0], run_name='__main__')
        except SystemExit as end:
            status = end.code
    after = set(slow) & set(sys.modules)
    reports.append([status, sorted(after - before), text.getvalue()])
    before = after
print(json.dumps(reports))
"""


def run_lines(lines, tools=TOOLS):
    """Return status, slow imports and output of each command line, a list of words."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, json.dumps([SLOW, str(tools), lines])],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope='module')
def reports():
    """Reports of all command lines by their text."""
    lines = [
        *(f'{name} --help' for name in NAMES),
        *(f'{name} --bogus' for name in NAMES),
        *WRONG,
    ]
    return dict(zip(lines, run_lines([line.split() for line in lines])))


@pytest.mark.parametrize('name', NAMES)
def test_help_comes_before_slow_imports(reports, name):
    status, imported, text = reports[f'{name} --help']
    assert status == 0 and text.startswith(f'usage: {name}.py')
    assert imported == []


@pytest.mark.parametrize('name', NAMES)
def test_an_unknown_option_is_reported_before_slow_imports(reports, name):
    status, imported, text = reports[f'{name} --bogus']
    assert status == 2 and f'{name}.py: error: ' in text and '--bogus' in text
    assert imported == []


@pytest.mark.parametrize('line', WRONG)
def test_a_wrong_value_is_reported_before_slow_imports(reports, line):
    status, imported, text = reports[line]
    assert status == 2 and WRONG[line] in text and text.splitlines()[-1].startswith(line.split()[0])
    assert imported == []


def test_slow_imports_are_noticed(tmp_path):
    (tmp_path / 'early_stop.py').write_text('')
    (tmp_path / 'slow.py').write_text('import early_stop, mmengine\nraise SystemExit(0)\n')
    (tmp_path / 'late.py').write_text('raise SystemExit(2)\nimport torch\n')
    slow, late = run_lines([['slow'], ['late']], tmp_path)
    assert slow[0] == 0 and 'mmengine' in slow[1]
    assert late == [2, [], '']


def test_choices_are_those_of_the_package():
    assert tuple(TARGETS) == choices.TARGETS
    assert tuple(SOURCES) == choices.SOURCES
    assert tuple(PROTOCOLS) == choices.PROTOCOLS
    assert tuple(KINDS) == choices.PICTURES
    assert tuple(METHODS) == choices.PROJECTIONS
    assert tuple(compute.FEATURES) == choices.FEATURES and compute.DTYPES == choices.DTYPES
    assert tuple(FORMATS) == choices.FEATURE_FILES
    assert ('auto', *feature_file._DTYPES) == choices.FEATURE_DTYPES
    renamed = load_tool('benchmarks/arguments').RENAMED_METHODS
    assert renamed == average_precision._RENAMED_METHODS
