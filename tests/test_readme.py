"""The README is one page, its numbers are those of the documentation; configs are in tables.

Its commands and snippets are tested with those of the documentation: tests/test_doc_snippets.py.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.helpers.tool_loading import help_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 110
    assert len(re.findall(r'^\|[-|]+\|$', README, re.M)) <= 2, 'tables'


def test_a_stranger_finds_what_matters():
    headings = re.findall(r'^## (.*)$', README, re.M)
    wanted = ['Install', 'Train', 'Use it downstream', 'Evaluate', 'Results', 'Documentation']
    starts = [next(i for i, text in enumerate(headings) if text.startswith(w)) for w in wanted]
    assert starts == sorted(starts)
    assert README.index('![') < README.index('cotap_mm.load(') < README.index('## Install')
    assert '@article{' in README and 'Apache-2.0' in README.splitlines()[-1]


def test_results_are_those_of_the_documentation():
    """Every number that the table of results states is in docs/results.md, with its digits."""
    table = README.split('## Results')[1].split('\n## ')[0]
    numbers = re.findall(r'\d+\.\d+(?: ± \d+\.\d+)?', table)
    assert len(numbers) >= 6
    results = (DOCS / 'results.md').read_text(encoding='utf-8')
    assert [number for number in numbers if number not in results] == []


def test_measured_results_are_those_of_the_benchmarks():
    """Single seeds, means and deviations of docs/results.md follow from docs/benchmarks.md."""
    results = (DOCS / 'results.md').read_text(encoding='utf-8').split('## Published')[0]
    benchmarks = (DOCS / 'benchmarks.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| student, (?:backbone|filter) \|(.*?)\|$', benchmarks, re.M)
    for row in rows[:2]:
        _, *seeds, _ = map(float, row.split('|'))
        mean = sum(seeds) / 3
        deviation = (sum((seed - mean) ** 2 for seed in seeds) / 2) ** 0.5
        assert f'{mean:.2f} ± {deviation:.2f}' in results
    for number in re.findall(r'(\d+\.\d\d) ± \d', results.split('## Fine-tuning')[1]):
        assert number in benchmarks, number


def test_every_pretraining_config_is_in_the_table():
    text = (DOCS / 'own_images.md').read_text()
    for path in (ROOT / 'configs' / 'cotap').glob('*.py'):
        if 'renamed = ' in path.read_text():  # an old path that forwards for one release
            continue
        assert f'| `{path.stem}` |' in text, path.stem


def test_every_downstream_config_is_in_a_table():
    text = ''.join(
        (DOCS / f'downstream_{name}.md').read_text() for name in ('segmentation', 'detection')
    )
    cells = re.findall(r'^\| (`.*?) \|', text, re.M)
    names = {
        name for cell in cells for part in re.findall(r'`(.*?)`', cell) for name in spell(part)
    }
    configs = {path.stem for path in (ROOT / 'configs' / 'downstream').glob('*.py')}
    assert configs <= names, configs - names


def spell(text):
    """``{a,b}_c`` -> a_c, b_c, as a shell does."""
    parts = [part.split(',') for part in re.split(r'[{}]', text)]
    return {''.join(words) for words in itertools.product(*parts)}


@pytest.mark.parametrize('text, names', [('a', {'a'}), ('{a,b}_c', {'a_c', 'b_c'})])
def test_spelling_of_braces(text, names):
    assert spell(text) == names


def test_every_tool_explains_itself():
    for path in sorted({*(ROOT / 'tools').glob('*.py')} - {ROOT / 'tools' / 'early_stop.py'}):
        assert help_of(path.stem).startswith(f'usage: {path.name}'), path.name
