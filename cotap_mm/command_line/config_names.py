"""Find the configs that are shipped with the package, without reading them."""

from __future__ import annotations

from pathlib import Path

#: Folders of configs that can be named without a path.
FOLDERS = ('cotap', 'downstream')
_PACKAGE = Path(__file__).resolve().parents[1]
#: Parents of the folder ``configs``: of an installed package, and of a checkout.
PARENTS = (_PACKAGE / '.mim', _PACKAGE.parent)


def shipped_configs() -> dict[str, list[str]]:
    """Names of the shipped configs, without old names that forward to new ones.

    Returns:
        dict[str, list[str]]: Folder -> sorted names without suffix.
    """
    return {
        folder: sorted(
            {
                path.stem
                for top in PARENTS
                for path in (top / 'configs' / folder).glob('*.py')
                if '\nrenamed = ' not in path.read_text(encoding='utf-8')
            }
        )
        for folder in FOLDERS
    }
