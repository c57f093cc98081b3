"""Check that everything states the version of a release: the code, CITATION.cff and the changelog.

python tools/check_release.py v0.1.0     version of a tag
python tools/check_release.py            version of the code
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent


def mistakes(root: Path, tag: Optional[str]) -> list[str]:
    """Return what does not fit a release, one sentence each.

    Args:
        root (Path): Folder of the repository.
        tag (str, optional): Tag such as 'v0.1.0'; None for the version of the code.
    """

    def find(name: str, pattern: str) -> Optional[str]:
        found = re.search(pattern, (root / name).read_text(encoding='utf-8'), re.M)
        return found[1] if found else None

    code = find('cotap_mm/version.py', r"^__version__ = '(.+)'")
    wrong = []
    if code is None or not re.fullmatch(r'\d+\.\d+\.\d+((a|b|rc)\d+)?', code):
        wrong.append(f'cotap_mm/version.py must set __version__ to X.Y.Z, got {code}')
    if tag is not None and tag != f'v{code}':
        wrong.append(f'the tag must be v{code}, the version of the code, got {tag}')
    citation = find('CITATION.cff', r'^version: (.+)')
    if citation != code:
        wrong.append(f'CITATION.cff must have version {code}, got {citation}')
    if tag is not None and not find(
        'CHANGELOG.md', rf'^(## \[{re.escape(str(code))}\] - \d{{4}}-)'
    ):
        wrong.append(f'CHANGELOG.md must have a section "## [{code}] - YYYY-MM-DD"')
    return wrong


def main(argv: Optional[list[str]] = None) -> None:
    """Print what is wrong, and exit with status 1 if anything is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('tag', nargs='?', help='tag of the release, e.g. v0.1.0')
    wrong = mistakes(ROOT, parser.parse_args(argv).tag)
    print('\n'.join(wrong) or 'the versions agree')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
