"""Links between files of the repository, translated to links between pages of the site.

Pages link to each other and to files in the root as on a code host, so both work.
"""

from __future__ import annotations

import posixpath
import re

#: Files in the root of the repository -> their pages.
ROOT_PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'develop/contributing.md',
    'CHANGELOG.md': 'develop/changelog.md',
}
_LINK = re.compile(r'(\]\()([^)\s#:]+)(#[^)\s]*)?(\))')


def relink(markdown: str, folder: str, page: str) -> str:
    """Translate the relative links of a file.

    Args:
        markdown (str): Text of the file.
        folder (str): Its folder, relative to the root of the repository; '' for the root.
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
