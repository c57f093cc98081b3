"""The documentation: navigation, sections, tables of options, quoted messages, and the site."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from cotap_mm.cli.main import COMMANDS
from tests.helpers.doc_pages import DOCS, PAGES, ROOT, nav_entries, page_name, texts_in_code

import links  # isort: skip  (tools/docs is on the path now)
import options  # isort: skip
import public_names  # isort: skip

#: Pages that explain one task each, with the same sections.
TASKS = [page for page in sorted(DOCS.glob('*.md')) if '## What can go wrong' in page.read_text()]
SECTIONS = ['## Command', '## Python', '## Options', '## What can go wrong', '## How it works']
#: Sections that a page has no content for.
WITHOUT = {
    'labels': {'## Options'},
    'performance': {'## Python'},
}
MARKS = re.compile(r'^<!-- options: ([\w-]+) -->$', re.M)


def test_every_page_is_in_the_navigation_and_exists():
    entries = [path for _, path in nav_entries()]
    assert len(set(entries)) == len(entries)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob('*.md')}
    assert set(entries) == pages | set(links.ROOT_PAGES.values())
    assert not pages & set(links.ROOT_PAGES.values()), 'a page in the root hides them'


def test_every_command_has_one_page():
    marked = [name for page in PAGES for name in MARKS.findall(page.read_text())]
    assert sorted(marked) == sorted(COMMANDS)


def test_there_are_task_pages():
    assert {page.stem for page in TASKS} >= {
        *('install', 'first_run', 'own_images', 'starting_weights', 'multi_gpu', 'resume'),
        *('evaluate', 'visualize', 'features', 'downstream_segmentation', 'export', 'performance'),
    }


@pytest.mark.parametrize('page', TASKS, ids=lambda page: page.stem)
def test_task_pages_have_the_same_sections_in_one_order(page):
    headings = re.findall(r'^## .*$', page.read_text(), re.M)
    wanted = [name for name in SECTIONS if name not in WITHOUT.get(page.stem, ())]
    assert [name for name in headings if name in wanted] == wanted
    assert [name for name in headings if name in SECTIONS] == wanted, 'remove it from WITHOUT'


@pytest.mark.parametrize('name', COMMANDS)
def test_table_has_every_option(name):
    rows = options.options_table(name).splitlines()
    assert rows[:2] == ['| option | default | meaning |', '|---|---|---|']
    named = {word for row in rows for word in re.findall(r'`(--[\w-]+)', row.split(' | ')[0])}
    shown = set(options.names_of(name))
    assert named <= shown and {option.replace('_', '-') for option in shown} <= {
        option.replace('_', '-') for option in named
    }
    for row in rows:
        assert len(re.findall(r'(?<!\\)\|', row)) == 4, row


def test_table_states_defaults_choices_and_what_is_required():
    table = options.options_table('convert').splitlines()[2:]
    rows = {row.split('`')[1].split()[0]: row for row in table}
    assert rows['checkpoint'].startswith('| `checkpoint` | required | file, URL')
    assert '| `cotap` |' in rows['--to']
    assert '`dino`' in rows['--source'] and '| detect it |' in rows['--source']
    assert '| off |' in rows['--overwrite']
    assert '| required |' in options.options_table('pack').splitlines()[2], 'Parser.needed'
    assert '--branch' not in options.options_table('convert'), 'old names are hidden'


def test_a_mark_of_an_unknown_command_is_an_error():
    with pytest.raises(ValueError, match="no command 'trein'"):
        options.fill_in('text\n<!-- options: trein -->\n')
    assert options.fill_in('no <!-- options: train --> line') == 'no <!-- options: train --> line'


def quoted_messages():
    """Messages in the tables of what can go wrong, one cell may quote several."""
    for page in TASKS:
        section = page.read_text().split('## What can go wrong')[1].split('\n## ')[0]
        for row in re.findall(r'^\| (.*?) \| ', section, re.M):
            if row.startswith('`') and row.endswith('`'):
                yield page.stem, row.strip('`')


#: Messages of other programs: make, Python, tools/setup_env.sh.
FOREIGN = ('make: ***', "No module named 'mmcv._ext'", '[setup] failed: …')


@pytest.mark.slow
@pytest.mark.smoke
def test_quoted_messages_occur_in_the_code():
    texts = texts_in_code()
    messages = list(quoted_messages())
    assert len(messages) > 80
    unknown = [
        message
        for message in messages
        if not message[1].startswith(FOREIGN) and not any(message[1] in text for text in texts)
    ]
    assert unknown == []


def test_links_between_files_become_links_between_pages():
    text = '[a](../CONTRIBUTING.md#set-up) [b](method.md) [c](https://x.org/CHANGELOG.md) [d](#e)'
    wanted = text.replace('../CONTRIBUTING.md', 'develop/contributing.md')
    assert links.relink(text, 'docs', 'index.md') == wanted
    text = '![p](docs/images/p.png) [t](docs/develop/tests.md) [l](LICENSE)'
    wanted = '![p](../images/p.png) [t](tests.md) [l](LICENSE)'
    assert links.relink(text, '', 'develop/contributing.md') == wanted
    text = '[up](../../CONTRIBUTING.md) [s](../studies/sensitivity.md)'
    wanted = '[up](contributing.md) [s](../studies/sensitivity.md)'
    assert links.relink(text, 'docs/develop', 'develop/deprecations.md') == wanted


def test_public_names_that_a_page_lacks():
    markdown = '# Ops\n\n::: cotap_mm.ops\n\n::: cotap_mm.ops.sinkhorn.sinkhorn\n'
    names = public_names.public_names(ROOT / 'cotap_mm' / 'ops' / '__init__.py')
    assert 'roi_pool' in names and 'COLOR_DEFAULTS' in names
    html = ''.join(f'<h2 id="cotap_mm.ops.{name}">' for name in names if name != 'roi_pool')
    missing = set(public_names.missing_names(markdown, html))
    # Functions with the name of their module need an entry of their own.
    assert missing == {
        'cotap_mm.ops.roi_pool',
        'cotap_mm.ops.sinkhorn.sinkhorn',
        'cotap_mm.ops.spherical_kmeans.spherical_kmeans',
    }


def test_the_built_site_is_in_no_commit():
    assert '/site/' in (ROOT / '.gitignore').read_text().splitlines()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ('mkdocs', 'material', 'mkdocstrings_handlers'):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: make docs')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', tmp_path / 'site'],
        cwd=ROOT,
        env=dict(os.environ, NO_MKDOCS_2_WARNING='1'),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / 'site' / 'own_images.html').read_text()
    assert '<code>--dry-run</code>' in page and '<!-- options' not in page
    # Search needs no server: neither for its index, nor for a worker in a page opened as a file.
    assert (tmp_path / 'site' / 'search' / 'search_index.js').is_file()
    sources = re.findall(r'<script[^>]* src="(.*?)"', page)
    assert sources[0] == 'javascripts/iframe-worker.js'
    assert not [source for source in sources if '://' in source]


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_pages_use_only_what_every_reader_renders(page):
    """No admonitions, tabs or formulas: a code host shows the same pages."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.S)
    assert not re.search(r'^(!!!|===|\?\?\?) ', text, re.M)
