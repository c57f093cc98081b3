"""List the licenses of all direct dependencies, as their metadata states them.

python tools/list_licenses.py            print the table for the installed packages
python tools/list_licenses.py --write    update the table in docs/dependencies.md
"""

from __future__ import annotations

import argparse
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'dependencies.md'
FIRST, LAST = '<!-- table: tools/list_licenses.py --write -->\n', '<!-- end of table -->'
#: Requirements file -> purpose; the first file that names a package counts.
NEEDED_FOR = {
    'runtime': 'pre-training',
    'mminstall': 'pre-training',
    'mmseg': 'MMSegmentation',
    'mmdet': 'MMDetection',
    'viewer': 'viewer',
    'pack': 'packed images',
    'tests': 'tests',
    'docs': 'documentation',
}
#: Dependencies that setup.py and tools/setup_env.sh name.
ALWAYS = ('torch', 'torchvision', 'mmcv')


def requirements() -> dict[str, str]:
    """Return every direct dependency and its purpose, without the optional openmim."""
    found = dict.fromkeys(ALWAYS, 'pre-training')
    for name, purpose in NEEDED_FOR.items():
        for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines():
            package = re.match(r'[A-Za-z0-9._-]+', line)
            if package:
                found.setdefault(package[0], purpose)
    return found


def license_of(package: Distribution) -> str:
    """Return a package's license: License-Expression, else a short License, else classifiers."""
    data = package.metadata
    if data.get('License-Expression'):
        return data['License-Expression']
    text = (data.get('License') or '').strip()
    if text and '\n' not in text and len(text) < 60:
        return text
    classifiers = [
        line.split(' :: ')[-1]
        for line in data.get_all('Classifier') or ()
        if line.startswith('License ::')
    ]
    first = text.splitlines()[0].strip() if text else 'not stated'
    return ', '.join(classifiers) or first


def installed(name: str) -> Optional[Distribution]:
    """Return the metadata of a package; mmcv-lite counts as mmcv."""
    for other in (name, f'{name}-lite') if name == 'mmcv' else (name,):
        try:
            return distribution(other)
        except PackageNotFoundError:
            continue
    return None


def rows() -> list[str]:
    """Return the lines of the table, sorted by name."""
    lines = ['| package | tested | license | for |', '|---|---|---|---|']
    for name, purpose in sorted(requirements().items()):
        package = installed(name)
        cells = (package.version, license_of(package)) if package else ('not installed', '')
        lines.append(f'| {name} | {cells[0]} | {cells[1]} | {purpose} |')
    return lines


def main(argv: Optional[list[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--write', action='store_true', help='update the table in docs/dependencies.md'
    )
    args = parser.parse_args(argv)
    table = '\n'.join(rows()) + '\n'
    if not args.write:
        print(table, end='')
        return
    before, rest = PAGE.read_text(encoding='utf-8').split(FIRST)
    PAGE.write_text(before + FIRST + table + LAST + rest.split(LAST)[1], encoding='utf-8')


if __name__ == '__main__':
    main()
