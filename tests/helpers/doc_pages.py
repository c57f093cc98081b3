"""Pages of the documentation: their blocks of code, and their commands, parsed by the parsers."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import yaml

from cotap_mm.cli.main import COMMANDS
from tests.helpers.tool_loading import COMMAND_OF, load_tool

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
sys.path.append(str(ROOT / 'tools' / 'docs'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(DOCS.rglob('*.md'))]
PROGRAMS = (
    'python',
    'torchrun',
    'make',
    'pip',
    'mim',
    'pytest',
    'cotap',
    'pre-commit',
    'docker',
    'jupyter',
)
SHELL = ('source', 'export', 'eval')


def page_name(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """Blocks of code in one language."""
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(encoding='utf-8'), re.S)


def commands(page):
    """Commands in the shell blocks of a page, as lists of words."""
    for block in blocks(page, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            for part in re.split(r' && ', line):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
                    words.pop(0)
                if words:
                    yield words


def nav_entries(nav=None):
    """Title and path of each page in the navigation of the site."""
    nav = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav'] if nav is None else nav
    for entry in nav:
        for title, value in entry.items():
            if isinstance(value, list):
                yield from nav_entries(value)
            else:
                yield title, value


def command_of(words):
    """The command of ``cotap`` that a line runs, and its arguments; None for other programs."""
    if words[0] == 'cotap':
        return words[1], words[2:]
    if words[0] == 'torchrun' and '-m' in words:
        at = words.index('-m')
        assert words[at + 1] == 'cotap_mm', words
        return words[at + 2], words[at + 3 :]
    if words[0] == 'tools/dist_train.sh':
        return 'train', [words[1], *words[3:]]
    if words[0] == 'tools/slurm_train.sh':
        return 'train', words[3:]
    if words[0] == 'tools/dist_test.sh':
        return 'test', [*words[1:3], *words[4:]]
    if words[0] == 'python' and words[1].startswith('tools/'):
        name = COMMAND_OF.get(Path(words[1]).stem, Path(words[1]).stem)
        if name in COMMANDS:
            return name, words[2:]
    return None


def check_command(words):
    """Check a line of a shell block: programs, files, targets and options exist.

    Returns:
        tuple: Name of the command of ``cotap`` and its parsed arguments; None for other programs.
    """
    for word in words:
        if re.match(r'(tools|configs|tests|requirements)/', word):
            assert (ROOT / word).exists(), word
    found = command_of(words)
    if found is not None:
        name, arguments = found
        assert name in COMMANDS, name
        return name, load_tool(name).parse_args(arguments)
    program = words[0]
    if program == 'make':
        assert re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.M), words[1]
    elif program == 'mim' and words[1] in ('train', 'test'):
        assert words[2] in ('mmseg', 'mmdet', 'mmpretrain') and (ROOT / words[3]).is_file(), words
    elif program == 'python' and words[1].startswith('tools/') and words[1].endswith('.py'):
        _check_script(words[1], ['cpu' if word == 'cuda' else word for word in words[2:]])
    elif program == 'pip' and '.[' in ''.join(words):
        (extras,) = re.findall(r'\.\[(.*?)\]', ' '.join(words))
        known = (ROOT / 'setup.py').read_text()
        for extra in extras.split(','):
            assert f"'{extra}':" in known, extra
    elif program.startswith('tools/') and program.endswith('.sh'):
        known = (ROOT / program).read_text()
        for word in words[1:]:
            assert not word.startswith('--') or word in known, f'{program} has no {word}'
    else:
        assert program in (*PROGRAMS, *SHELL, 'tensorboard', 'pip-audit'), program
    return None


def _check_script(file, arguments):
    """Parse the arguments of a script in tools/ that is not a command of ``cotap``."""
    folder = str((ROOT / file).parent)
    if folder not in sys.path:  # for the modules that it imports beside itself
        sys.path.append(folder)
    module = load_tool(str(Path(file).relative_to('tools').with_suffix('')))
    if hasattr(module, 'parse_args'):
        module.parse_args(arguments)
        return
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        module.main(['--help'])
    for word in arguments:
        assert not word.startswith('--') or word in text.getvalue(), f'{file} has no {word}'


def texts_in_code(package=ROOT / 'cotap_mm'):
    """All texts in the code of the package, with … for the values that are formatted into them."""
    texts = set()
    for path in package.rglob('*.py'):
        if '.mim' not in path.parts:
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                texts.add(_text(node))
    return texts - {None}


def _text(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(
            part.value if isinstance(part, ast.Constant) else '…' for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        if left is not None or right is not None:
            return ('…' if left is None else left) + ('…' if right is None else right)
    return None
