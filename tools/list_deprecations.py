"""List what is deprecated: old names that still work, with a warning, and their new names.

python tools/list_deprecations.py            print the table
python tools/list_deprecations.py --write    update the table in CHANGELOG.md

Options come from the parsers of the commands. Everything else is read from the source code, without
importing it: the functions and decorators of cotap_mm/deprecation.py, and renamed configs.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from cotap_mm.cli.main import COMMANDS
from cotap_mm.deprecation import REMOVED_IN, OldPositional, RenamedOption

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'CHANGELOG.md'
FIRST = '<!-- table: tools/list_deprecations.py --write -->\n'
LAST = '<!-- end of table -->'
#: Old names that the code composes when they are used.
COMPOSED = [
    ("`method='pairs'`, `'sums'` of `PatchRankingLoss`", "`'pairwise'`, `'sorted'`"),
    (
        'protocols called with `(encoder, dataset, num_classes, ...)`',
        '`LabeledSet(dataset, num_classes, ...)` for each data set',
    ),
    ('`cotap viewer CHECKPOINT DIR`', '`cotap viewer CHECKPOINT --images DIR`'),
]
#: Class in which a method is defined -> class that users know.
KNOWN_AS = {'FeatureExtractionMixin': 'CoTAP', 'EncodedImages': 'ImageList'}
Row = tuple[str, str]


def options() -> Iterator[Row]:
    """Yield the renamed options of all commands, each with the commands that have it."""
    found: dict[Row, list[str]] = {}
    for command in COMMANDS:
        parser = importlib.import_module(f'cotap_mm.cli.{command}').build_parser()
        for action in parser._actions:
            if isinstance(action, RenamedOption):
                pair = (action.option_strings[0], action.new)
            elif isinstance(action, OldPositional):
                pair = ('DIR', f'{action.new} DIR')
            else:
                continue
            found.setdefault(pair, []).append(command)
    for (old, new), commands in found.items():
        yield f'`cotap {", ".join(commands)}`: `{old}`', f'`{new}`'


def texts(node: ast.AST) -> Optional[list[str]]:
    """Return the constant texts among the positional arguments; None if one is composed."""
    values = [each.value if isinstance(each, ast.Constant) else None for each in node.args]
    return values if all(isinstance(value, str) for value in values) else None


def calls(path: Path) -> Iterator[Row]:
    """Yield the deprecated names of one file."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    owners: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            owners[child] = node
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
            if name == 'warn_renamed' and texts(node):
                old, new = texts(node)
                if old.endswith('='):
                    old = f'{owner_name(node, owners)}({old})'
                yield f'`{old}`', f'`{new}`'
            elif name == 'register_renamed':
                yield f"`type='{node.args[1].value}'`", f"`type='{ast.unparse(node.args[2])}'`"
            elif name == 'renamed_argument':
                yield f'`{owner_name(node, owners)}({texts(node)[0]}=)`', f'`{texts(node)[1]}=`'
            elif name == 'deprecated_api_warning':
                for old, new in renamed_by(node.args[0], tree):
                    yield f'`{owner_name(node, owners)}({old}=)`', f'`{new}=`'


def owner_name(node: ast.AST, owners: dict[ast.AST, ast.AST]) -> str:
    """Return the function that a node belongs to, with its class; the class for a constructor."""
    names: list[str] = []
    while node in owners:
        node = owners[node]
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.insert(0, KNOWN_AS.get(node.name, node.name))
    return '.'.join(name for name in names if name != '__init__') or '?'


def renamed_by(node: ast.AST, tree: ast.Module) -> list[Row]:
    """Return the pairs of ``dict(old='new')``, ``{'old': 'new'}``, or a name of one of them."""
    if isinstance(node, ast.Name):
        assigned = (each for each in tree.body if isinstance(each, ast.Assign))
        node = next(each.value for each in assigned if each.targets[0].id == node.id)
    if isinstance(node, ast.Dict):
        return [(key.value, value.value) for key, value in zip(node.keys, node.values)]
    return [(keyword.arg, keyword.value.value) for keyword in node.keywords]


def configs() -> Iterator[Row]:
    """Yield the configs whose only content is their new name."""
    for path in sorted((ROOT / 'configs').rglob('*.py')):
        found = re.search(r"^renamed = \('(.+?)', '(.+?)'\)", path.read_text(), re.M)
        if found:
            yield f'`{found[1]}`', f'`{found[2]}`'


def rows() -> list[str]:
    """Return the lines of the table."""
    sources = [
        path
        for path in sorted((ROOT / 'cotap_mm').rglob('*.py'))
        if '.mim' not in path.parts and path.name != 'deprecation.py' and path.parent.name != 'cli'
    ]
    pairs = [*options(), *(row for path in sources for row in calls(path)), *COMPOSED, *configs()]
    lines = [f'| old, until {REMOVED_IN} | new |', '|---|---|']
    return lines + [f'| {old} | {new} |' for old, new in dict.fromkeys(pairs)]


def main(argv: Optional[list[str]] = None) -> None:
    """Print the table, or write it into the changelog."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--write', action='store_true', help='update CHANGELOG.md')
    args = parser.parse_args(argv)
    table = '\n'.join(rows())
    if not args.write:
        print(table)
        return
    text = PAGE.read_text(encoding='utf-8')
    start, end = text.index(FIRST) + len(FIRST), text.index(LAST)
    PAGE.write_text(f'{text[:start]}{table}\n{text[end:]}', encoding='utf-8')


if __name__ == '__main__':
    main()
