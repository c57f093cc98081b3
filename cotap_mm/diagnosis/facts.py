"""Facts about an installation, and problems that follow from them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from .hardware import Folder, Machine
from .imports import Import


@dataclass
class Problem:
    """Something that is broken, or that may become a problem.

    Attributes:
        text (str): One sentence.
        remedy (str): Command or action that repairs it; '' if none is known.
        is_broken (bool): Whether cotap_mm, or a part of it, cannot work; else it is a warning.
    """

    text: str
    remedy: str = ''
    is_broken: bool = True


@dataclass
class Facts:
    """Everything that is known about an installation and its machine.

    Attributes:
        python (tuple[int, int, int]): Version of Python.
        origin (str): See :func:`.describe_origin`.
        versions (dict[str, str]): Distribution -> version.
        optional (dict[str, str]): Optional distribution -> version, '' if not installed.
        imports (dict[str, Import]): Module -> result; empty if none was tried.
        machine (Machine): CPU, memory and driver.
        folders (dict[str, Folder]): Purpose -> folder.
        environment (dict[str, str]): Environment variables.
        has_pkg_resources (bool): Whether setuptools has the module.
    """

    python: tuple[int, ...] = sys.version_info[:3]
    origin: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)
    folders: dict[str, Folder] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    has_pkg_resources: bool = True

    def torch(self, key: str) -> object:
        """Fact about PyTorch, see :mod:`.import_probe`; None if it could not be imported."""
        return self.imports['torch'].facts.get(key) if 'torch' in self.imports else None
