"""The tools are scripts, not a package; tests import them by their file."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import sys
from pathlib import Path
from unittest import mock

from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@functools.cache
def help_of(name):
    """What ``tools/NAME.py --help`` prints, in this process, which has imported most already."""
    text, words, path = io.StringIO(), sys.argv, list(sys.path)
    sys.argv = [f'{name}.py', '--help']
    sys.path.insert(0, str(TOOLS))
    try:
        with contextlib.redirect_stdout(text):
            load_tool(name).main()
    except SystemExit as ended:
        assert not ended.code, ended.code
    finally:
        sys.argv, sys.path[:] = words, path
    return text.getvalue()


def forget_runs():
    """Drop what MMEngine keeps of runs in this process, by a name that has only seconds in it."""
    kinds = [Visualizer, MMLogger]
    while kinds:
        kind = kinds.pop()
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


def load_tool(name):
    """A new module of ``tools/NAME.py``; NAME may have a folder, as ``benchmarks/transfer``."""
    spec = importlib.util.spec_from_file_location(f'tool_{Path(name).name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, 'path', [str(TOOLS), *sys.path]):  # as for a script
        spec.loader.exec_module(module)
    return module
