"""The tools are scripts, not a package; tests import them by their file."""
import importlib.util
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / 'tools'


def load_tool(name):
    """A new module of ``tools/NAME.py``; NAME may have a folder, as ``benchmarks/transfer``."""
    spec = importlib.util.spec_from_file_location(f'tool_{Path(name).name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
