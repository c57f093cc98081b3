"""Tests call the tools in their own process: commands of ``cotap``, and other scripts by file."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import sys
from pathlib import Path

from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

from cotap_mm.cli.main import COMMANDS

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
if str(TOOLS) not in sys.path:  # as for a script, also when main imports what it needs
    sys.path.append(str(TOOLS))


@functools.cache
def help_of(name):
    """What ``tools/NAME.py --help`` prints, in this process, which has imported most already."""
    text, words = io.StringIO(), sys.argv
    sys.argv = [f'{name}.py', '--help']
    try:
        with contextlib.redirect_stdout(text):
            load_tool(name).main()
    except SystemExit as ended:
        assert not ended.code, ended.code
    finally:
        sys.argv = words
    return text.getvalue()


@functools.cache
def import_what_trainings_use():
    """Import what the libraries do at the first step only; call it before a fork.

    Each of the processes would need a second for it.
    """
    for name in (
        'kornia',
        'matplotlib.backends.backend_agg',
        'matplotlib.pyplot',
        'scipy.ndimage',
        'torch.utils.cpp_extension',
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def forget_runs():
    """Drop what MMEngine keeps of runs in this process, by a name that has only seconds in it."""
    kinds = [Visualizer, MMLogger, MessageHub]
    while kinds:
        kind = kinds.pop()
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


#: Script in tools/ whose name differs from its command -> the command.
COMMAND_OF = {'build_neighbors': 'neighbors', 'pack_dataset': 'pack'}


def load_tool(name):
    """The module of a command by the name of its script in tools/; else a new module of the file.

    A name of a file may have a folder, as ``benchmarks/transfer``.
    """
    command = COMMAND_OF.get(name, name)
    if command in COMMANDS:
        return importlib.import_module(f'cotap_mm.cli.{command}')
    spec = importlib.util.spec_from_file_location(f'tool_{Path(name).name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
