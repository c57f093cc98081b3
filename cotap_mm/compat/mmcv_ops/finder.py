"""Import hooks for ``mmcv._ext``: the stand-in if it does not exist, a reason if it is broken."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

EXTENSION = 'mmcv._ext'
#: Distributions with a folder mmcv/. No two of them may be installed.
DISTRIBUTIONS = ('mmcv', 'mmcv-lite', 'onedl-mmcv', 'mmcv-full')


class StandInFinder:
    """Last of the finders: finds the stand-in after no other finder has found ``mmcv._ext``."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Any = None
    ) -> Optional[ModuleSpec]:
        """Describe the stand-in; None for all other modules."""
        if fullname != EXTENSION:
            return None
        return importlib.util.spec_from_file_location(
            fullname, Path(__file__).with_name('extension.py')
        )


class CompiledFinder:
    """First of the finders: a compiled ``mmcv._ext``, with a loader that explains failures."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Any = None
    ) -> Optional[ModuleSpec]:
        """Describe the compiled module; None if there is none, and for all other modules."""
        if fullname != EXTENSION:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is ExtensionFileLoader:
            spec.loader = ExplainingLoader(spec.loader.name, spec.loader.path)
        return spec


class ExplainingLoader(ExtensionFileLoader):
    """Loads a compiled module; an error names the versions and the ways out."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Load the library.

        Raises:
            ImportError: If it does not load, mostly for lack of a symbol of another torch.
        """
        try:
            return super().create_module(spec)
        except ImportError as error:
            raise ImportError(_broken(error), name=spec.name, path=self.path) from error


def _broken(error: ImportError) -> str:
    import torch

    installed = installed_distributions()
    name = next(iter(installed), 'mmcv')
    return (
        f'the compiled operators of {name} {installed.get(name, "")} do not load with torch '
        f'{torch.__version__}, most likely because they were compiled for another version '
        f'({error}): install {name} for this torch, or use the stand-in of cotap_mm: '
        f'pip uninstall {name} && pip install mmcv-lite'
    )


def installed_distributions() -> dict[str, str]:
    """Versions of the installed distributions of MMCV."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def several_distributions() -> Optional[str]:
    """One sentence if several distributions of MMCV are installed; None otherwise."""
    found = installed_distributions()
    if len(found) < 2:
        return None
    listed = ' and '.join(f'{name} {version}' for name, version in found.items())
    return (
        f'{listed} are installed and overwrite each other in the folder mmcv/: '
        f'pip uninstall {" ".join(found)}, then install one of them'
    )


def install() -> None:
    """Put the import hooks in place, once; imports nothing unless something is to be repaired."""
    if any(type(finder).__name__ == 'StandInFinder' for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, CompiledFinder())  # type: ignore[arg-type]
    sys.meta_path.append(StandInFinder())  # type: ignore[arg-type]
    _restore_find_loader()
    _repair()


def _restore_find_loader() -> None:
    """Python 3.14 has no ``pkgutil.find_loader``, by which MMEngine and MMCV find operators."""
    if hasattr(pkgutil, 'find_loader'):
        return

    def find_loader(fullname: str) -> Any:
        spec = importlib.util.find_spec(fullname)
        return None if spec is None else spec.loader

    pkgutil.find_loader = find_loader


def _repair() -> None:
    """Complete ``mmcv.cnn`` if it was imported before, without operators.

    It ignores that ``mmcv.ops`` cannot be imported, but then misses a class, and MMCV's operators
    are not in the registries.
    """
    transformer = sys.modules.get('mmcv.cnn.bricks.transformer')
    if transformer is None or 'mmcv.ops' in sys.modules:
        return
    try:
        operators = importlib.import_module('mmcv.ops')
    except Exception as error:  # whatever the reason, pre-training does not need operators
        warnings.warn(
            'mmcv.cnn was imported without the operators of MMCV, which cannot be imported now '
            f'either ({type(error).__name__}: {error})',
            stacklevel=3,
        )
        return
    name = 'MultiScaleDeformableAttention'
    if not hasattr(transformer, name):
        setattr(transformer, name, getattr(operators, name))
