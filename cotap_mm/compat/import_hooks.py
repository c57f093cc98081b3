"""Change modules of other libraries at the moment when they are first imported.

A workaround that imported its library at once would cost every ``import cotap_mm`` seconds.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Callable, Optional

Change = Callable[[ModuleType], None]


def after_import(name: str, change: Change) -> None:
    """Call a function with a module once that is imported; at once if it already is.

    Args:
        name (str): Full name of the module.
        change (callable): Called with the module. Its errors fail the import.
    """
    if name in sys.modules:
        change(sys.modules[name])
        return
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
    _WATCHER.changes.setdefault(name, []).append(change)


def run_after(name: str, dependency: str, **names: Any) -> None:
    """Run a module's code only after another module has been imported.

    Until then, importing the module runs nothing and takes no time.

    Args:
        name (str): Full name of the module, which must not have been imported.
        dependency (str): Full name of the module to wait for.
        **names: What the module contains in the meantime.
    """
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
    _WATCHER.delays[name] = (dependency, names)


def hide_from(name: str, package: str) -> None:
    """Let a module find that an optional package is not installed, unless it is imported already.

    Args:
        name (str): Full name of the module, which must not have been imported.
        package (str): Name of the package.
    """
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
    _WATCHER.hidden[name] = package


class _Watcher(importlib.abc.MetaPathFinder):
    """Find the watched modules as usual, and wrap their loaders."""

    def __init__(self) -> None:
        self.changes: dict[str, list[Change]] = {}
        self.delays: dict[str, tuple[str, dict[str, Any]]] = {}
        self.hidden: dict[str, str] = {}

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[importlib.machinery.ModuleSpec]:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        if not any(fullname in names for names in (self.changes, self.delays, self.hidden)):
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = self._wrapped(fullname, spec.loader)
                return spec
        return None

    def _wrapped(self, name: str, loader: importlib.abc.Loader) -> importlib.abc.Loader:
        if name in self.hidden:
            loader = _HidingLoader(loader, self.hidden[name])
        if name in self.delays:
            loader = _DelayingLoader(loader, *self.delays[name])
        if name in self.changes:
            loader = _ChangingLoader(loader, self.changes[name])
        return loader


class _WrappedLoader(importlib.abc.Loader):
    """Load with another loader."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        """See :meth:`importlib.abc.Loader.create_module`."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        # Later readers of the spec, such as inspect and pickle, expect the loader of the file.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)


class _ChangingLoader(_WrappedLoader):
    """Load with another loader, then apply the changes."""

    def __init__(self, loader: importlib.abc.Loader, changes: list[Change]) -> None:
        super().__init__(loader)
        self._changes = changes

    def exec_module(self, module: ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        super().exec_module(module)
        for change in self._changes:
            change(module)


class _HidingLoader(_WrappedLoader):
    """Load with another loader, while a package cannot be imported."""

    def __init__(self, loader: importlib.abc.Loader, package: str) -> None:
        super().__init__(loader)
        self._package = package

    def exec_module(self, module: ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        if self._package in sys.modules:
            super().exec_module(module)
            return
        sys.modules[self._package] = None  # type: ignore[assignment]
        try:
            super().exec_module(module)
        finally:
            del sys.modules[self._package]


class _DelayingLoader(_WrappedLoader):
    """Load with another loader once a dependency has been imported."""

    def __init__(
        self, loader: importlib.abc.Loader, dependency: str, names: dict[str, Any]
    ) -> None:
        super().__init__(loader)
        self._dependency = dependency
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        vars(module).update(self._names)
        after_import(self._dependency, lambda _: self._run(module))

    def _run(self, module: ModuleType) -> None:
        super().exec_module(module)
        # The package may have copied the names from the module.
        package = sys.modules.get(module.__name__.rpartition('.')[0])
        for name, value in self._names.items():
            if getattr(package, name, None) is value:
                setattr(package, name, getattr(module, name))


_WATCHER = _Watcher()
