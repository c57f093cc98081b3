"""MkDocs calls these functions while it builds the site, see mkdocs.yml.

* Tables of options are inserted from the code, see :mod:`options`.
* README.md, CONTRIBUTING.md and CHANGELOG.md become pages, see :mod:`links`.
* Pages of the Python API must show all public names of their packages, see :mod:`public_names`. A
  name without a docstring is missing from its page.
"""

from __future__ import annotations

import logging
import posixpath
from pathlib import Path
from typing import Any

from links import ROOT_PAGES, relink
from mkdocs.structure.files import File
from options import fill_in
from public_names import missing_names

ROOT = Path(__file__).resolve().parents[2]
#: Warnings fail a strict build.
_LOG = logging.getLogger('mkdocs.hooks.cotap_mm')


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie in the root of the repository."""
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding='utf-8')
        files.append(File.generated(config, page, content=relink(text, '', page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Insert tables of options, and lead links to files in the root to their pages."""
    uri = page.file.src_uri
    if uri not in ROOT_PAGES.values():
        markdown = relink(markdown, posixpath.join('docs', posixpath.dirname(uri)), uri)
    return fill_in(markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Warn of public names that a page of the Python API lacks."""
    for name in missing_names(page.markdown, html):
        _LOG.warning(
            '%s does not document %s: it has no docstring, or a module hides it', page.url, name
        )
    return html


def on_serve(server: Any, config: Any, builder: Any) -> Any:
    """Rebuild the site when a page in the root or a docstring changes."""
    for name in (*ROOT_PAGES, 'cotap_mm'):
        server.watch(str(ROOT / name))
    return server
