"""Links and anchors in the documents resolve; Python examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PAGES = [*sorted(ROOT.glob('*.md')), *sorted(DOCS.rglob('*.md'))]


def anchors(page):
    """Return the anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.M)
    return {re.sub(r'[^\w\- ]', '', heading).lower().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_anchors_exist(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
        if re.match(r'[a-z]+:', target):
            continue
        file, _, anchor = target.partition('#')
        path = page.parent / file if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.slow
def test_ranking_loss_example_runs():
    (block,) = re.findall(r'```python\n(.*?)```', (DOCS / 'ranking_loss.md').read_text(), re.S)
    names = {}
    exec(block, names)
    losses = names['losses']
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
