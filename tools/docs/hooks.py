"""MkDocs calls these functions while it builds the site, see mkdocs.yml.

* Tables of options are inserted from the code, see :mod:`options`.
* Pages of the Python API must show all public names of the packages that they document; a name
  without a docstring is missing from its page.
* CONTRIBUTING.md and CHANGELOG.md become pages. Links from a page to one of them, and from them
  into ``docs/``, lead to the pages; on a code host the same links lead to the files.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from options import fill_in

ROOT = Path(__file__).resolve().parents[2]
#: Files in the root of the repository -> their pages.
ROOT_PAGES = {
    'CONTRIBUTING.md': 'develop/contributing.md',
    'CHANGELOG.md': 'develop/changelog.md',
    'README.md': 'index.md',
}
#: Warnings fail a strict build.
_LOG = logging.getLogger('mkdocs.hooks.cotap_mm')
_LINK = re.compile(r'(\]\()([^)\s#:]+)(#[^)\s]*)?(\))')


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie in the root of the repository."""
    for name, page in ROOT_PAGES.items():
        if files.get_file_from_path(page) is None:
            text = (ROOT / name).read_text(encoding='utf-8')
            files.append(File.generated(config, page, content=_relink(text, '', page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Insert tables of options, and lead links to files in the root to their pages."""
    uri = page.file.src_uri
    if page.file.generated_by is None:
        markdown = _relink(markdown, posixpath.join('docs', posixpath.dirname(uri)), uri)
    return fill_in(markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Warn of public names that a page of the Python API lacks."""
    for name in missing_names(page.markdown, html):
        _LOG.warning(
            '%s does not document %s: it has no docstring, or a module hides it', page.url, name
        )
    return html


def missing_names(markdown: str, html: str) -> Iterator[str]:
    """Yield the public functions and classes that a page should document, but does not.

    Args:
        markdown (str): Text of the page, whose lines ``::: PACKAGE`` name packages.
        html (str): The same page after the docstrings were inserted.

    Yields:
        str: Dotted name in the ``__all__`` of a package.
    """
    for package in re.findall(r'^::: ([\w.]+)$', markdown, re.M):
        folder = ROOT.joinpath(*package.split('.'))
        if not folder.is_dir():
            continue
        for name in _public_names(folder / '__init__.py'):
            # A function that has the name of its module is documented by its full name.
            full = f'{name}.{name}' if (folder / f'{name}.py').is_file() else name
            if not name.isupper() and f'id="{package}.{full}"' not in html:
                yield f'{package}.{full}'


def _public_names(init: Path) -> list[str]:
    for node in ast.parse(init.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return ast.literal_eval(node.value)
    return []


def _relink(markdown: str, folder: str, page: str) -> str:
    """Translate relative links of a file in the repository to links between pages.

    Args:
        markdown (str): Text of the file.
        folder (str): Its folder, relative to the root of the repository.
        page (str): Its page, relative to ``docs``.

    Returns:
        str: The text with links relative to the page.
    """

    def translate(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if target in ROOT_PAGES:
            target = ROOT_PAGES[target]
        elif target.startswith('docs/'):
            target = target[len('docs/') :]
        else:
            return match[0]
        link = posixpath.relpath(target, posixpath.dirname(page) or '.')
        return f'{match[1]}{link}{match[3] or ""}{match[4]}'

    return _LINK.sub(translate, markdown)
