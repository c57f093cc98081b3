"""MkDocs calls these functions while it builds the site, see mkdocs.yml.

* Tables of options are inserted from the code, see :mod:`options`.
* CONTRIBUTING.md and CHANGELOG.md become pages. Links from a page to one of them, and from them
  into ``docs/``, lead to the pages; on a code host the same links lead to the files.
"""

from __future__ import annotations

import posixpath
import re
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
