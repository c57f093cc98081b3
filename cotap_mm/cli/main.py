"""``cotap``, which is also ``python -m cotap_mm``: run one of the commands by its name."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn, Optional

from cotap_mm.command_line.arguments import nearest
from cotap_mm.command_line.tool import run_script
from cotap_mm.compat.workarounds import check_versions
from cotap_mm.version import __version__

#: Name of each command -> what it does. Its module in :mod:`cotap_mm.cli` has the same name.
COMMANDS = {
    'demo': 'train on toy scenes, evaluate, and write a report: a first look',
    'train': 'pre-train on your images, or fine-tune with a downstream config',
    'test': 'test a fine-tuned model of MMSegmentation, MMDetection or MMPretrain',
    'embed': 'write features of all images of a folder to one file',
    'evaluate': 'measure features: segmentation by retrieval, linear layers, clusters, ...',
    'compare': 'compare backbones: a table, a plot, and pictures side by side',
    'visualize': 'draw features of networks on your images, as an HTML report',
    'viewer': 'explore features in the browser',
    'convert': 'write weights for timm, Hugging Face, MMSegmentation, ONNX, ...',
    'publish': 'write a small file of weights with config, license and hash',
    'pack': 'pack a folder of images into one file',
    'neighbors': 'compute the nearest neighbors of images in advance',
    'check': 'look at your images and this machine, and propose a training',
    'doctor': 'report versions, GPUs and disks, what is broken, and how to repair it',
}
#: Commands that work although a required package is missing or too old.
_ALWAYS = ('doctor',)
_EXAMPLE = 'cotap train vits_folder --images DIR'


def usage() -> str:
    """Return the help of ``cotap``."""
    width = max(map(len, COMMANDS))
    return '\n'.join(
        [
            'usage: cotap COMMAND ...',
            '',
            'Dense visual features without labels.',
            '',
            'commands:',
            *(f'  {name.ljust(width)}  {text}' for name, text in COMMANDS.items()),
            '',
            f'example: {_EXAMPLE}',
            'cotap COMMAND --help lists all options of a command; cotap --version prints the '
            'version.',
            'completion of commands and options: eval "$(cotap --completion bash)", or zsh',
        ]
    )


def cotap(argv: Optional[list[str]] = None) -> None:
    """Run the command that the arguments name.

    Args:
        argv (list[str], optional): Command and its arguments. Defaults to those of the process.

    Raises:
        SystemExit: After the help, with status 2 for an unknown command, and with status 1 if a
            required package is missing or too old.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else '--help'
    if name in ('-h', '--help', 'help'):
        print(usage())
        return
    if name == '--version':
        print(f'cotap_mm {__version__}')
        return
    if name == '--completion':
        _print_completion(words[1:])
        return
    if name not in COMMANDS:
        _refuse(name)
    if name not in _ALWAYS:
        _check_installation()
    command = importlib.import_module(f'cotap_mm.cli.{name}')
    sys.argv = [f'cotap {name}', *words[1:]]  # what messages and --help name
    run_script(command.main)


def _print_completion(shells: list[str]) -> None:
    """Print the completion script of a shell; exit with status 2 for another one."""
    from .completion import completion_script  # imports all commands

    try:
        print(completion_script(' '.join(shells), COMMANDS))
    except ValueError as error:
        print(f'cotap: error: {error}, e.g. eval "$(cotap --completion bash)"', file=sys.stderr)
        sys.exit(2)


def _check_installation() -> None:
    """Exit with status 1 and one sentence if a required package is missing or too old."""
    try:
        check_versions()
    except ImportError as error:
        sys.exit(f'cotap: error: {str(error).rstrip(".")}; cotap doctor reports everything else')


def _refuse(name: str) -> NoReturn:
    """Exit with status 2 and the nearest command."""
    what = f'option {name}' if name.startswith('-') else f'command {name!r}'
    print(
        f'cotap: error: unknown {what}{nearest(name.lstrip("-"), COMMANDS)}; '
        f'expected one of {", ".join(COMMANDS)}, e.g. {_EXAMPLE}',
        file=sys.stderr,
    )
    sys.exit(2)
