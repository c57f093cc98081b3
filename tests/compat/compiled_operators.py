"""MMCV's compiled operators for tests, from a wheel if the installed MMCV has none."""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path

import pytest
import torch

#: The wheels of the shared folder are built for this version of torch: with it, one must load.
WHEELS_TORCH = '2.11'
#: The last part is the name of the library's init function.
NAME = 'compiled_mmcv_of_tests._ext'


def fitting_wheels(folders, version):
    """Wheels of one version of MMCV with a compiled module for this Python, and its path in them.

    Args:
        folders (list): Folders to search; missing ones are skipped.
        version (str): Version of MMCV.

    Returns:
        list[tuple[Path, str]]: Wheels in the order of the folders, each once.
    """
    # The suffixes without a version of Python (.abi3.so, .so) do not tell whether it fits.
    wanted = f'mmcv/_ext{EXTENSION_SUFFIXES[0]}'
    paths = [path for folder in folders for path in sorted(Path(folder).glob('mmcv-*.whl'))]
    fitting = {}
    for path in paths:
        if path.name.split('-')[1].split('+')[0] != version:
            continue
        with zipfile.ZipFile(path) as wheel:
            if wanted in wheel.namelist():
                fitting.setdefault(path.resolve(), wanted)
    return list(fitting.items())


def load_library(path):
    """Load a compiled module under a name of its own, so that ``mmcv._ext`` stays the stand-in."""
    loader = ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, str(path), loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def load_compiled(folders, scratch, needs_shared):
    """Load the compiled operators of the installed MMCV, or else of the first wheel that loads.

    With the version of torch that the shared wheels are built for, a wheel that does not load is a
    failure, and a missing one is "missing data", a failure wherever the shared folder exists.

    Args:
        folders (list): Folders with wheels.
        scratch (Path): Folder for the unpacked libraries.
        needs_shared (str): Start of the reason for skipping a test for missing data.
    """
    installed = importlib.import_module('mmcv._ext')
    if not hasattr(installed, '__all__'):
        return installed
    version = importlib.import_module('mmcv').__version__
    must_load = torch.__version__.split('+')[0].rsplit('.', 1)[0] == WHEELS_TORCH
    errors = []
    for index, (wheel, member) in enumerate(fitting_wheels(folders, version)):
        with zipfile.ZipFile(wheel) as opened:
            library = opened.extract(member, scratch / str(index))
        try:
            return load_library(library)
        except ImportError as error:
            errors.append(f'{wheel.name} does not load with torch {torch.__version__} ({error})')
    if errors:
        (pytest.fail if must_load else pytest.skip)('; '.join(errors))
    searched = ', '.join(map(str, folders))
    reason = f'no wheel of mmcv {version} for this Python in {searched} (MMCV_FIND_LINKS)'
    return pytest.skip(f'{needs_shared}: {reason}' if must_load else reason)
