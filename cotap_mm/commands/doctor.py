"""Diagnosis of an installation with the options of ``cotap doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from cotap_mm.diagnosis.facts import Facts
from cotap_mm.diagnosis.hardware import inspect_folder, inspect_machine
from cotap_mm.diagnosis.imports import MODULES, try_imports
from cotap_mm.diagnosis.packages import (
    REPORTED,
    describe_origin,
    installed_optional,
    versions_of,
)
from cotap_mm.diagnosis.problems import find_problems
from cotap_mm.diagnosis.report import format_json, format_markdown, format_text


def collect(work_dir: str, imports: bool = True, seconds: float = 300.0) -> Facts:
    """Collect the facts about this installation and machine.

    Args:
        work_dir (str): Folder that runs write to.
        imports (bool): Whether to try to import the libraries. Defaults to True.
        seconds (float): Limit for the imports. Defaults to 300.

    Returns:
        Facts: For :func:`.find_problems` and the reports.
    """
    versions = versions_of(REPORTED)
    # cotap_mm itself needs no distribution: a checkout is used without one.
    names = [
        module
        for module, distributions in MODULES.items()
        if not distributions or any(name in versions for name in distributions)
    ]
    return Facts(
        origin=describe_origin(),
        versions=versions,
        optional=installed_optional(),
        imports=try_imports(names, seconds) if imports else {},
        machine=inspect_machine(),
        folders={purpose: inspect_folder(path) for purpose, path in _folders(work_dir).items()},
        environment=dict(os.environ),
        has_pkg_resources=importlib.util.find_spec('pkg_resources') is not None,
    )


def _folders(work_dir: str) -> dict[str, str]:
    """Purpose -> folder that cotap_mm and its libraries write to."""
    environment = os.environ
    cache = environment.get('XDG_CACHE_HOME') or '~/.cache'
    torch = environment.get('TORCH_HOME') or str(Path(cache) / 'torch')
    return {
        'work folder': work_dir,
        'downloaded weights': torch,
        'temporary files': tempfile.gettempdir(),
    }


def run(args: argparse.Namespace) -> None:
    """Print the report; exit with status 1 if something is broken."""
    if not args.no_imports and sys.stderr.isatty():
        print('importing the libraries, which takes up to a minute ...', file=sys.stderr)
    facts = collect(args.work_dir, not args.no_imports, args.timeout)
    problems = find_problems(facts)
    formats = dict(text=format_text, markdown=format_markdown, json=format_json)
    print(formats[args.format](facts, problems))
    if any(problem.is_broken for problem in problems):
        sys.exit(1)
