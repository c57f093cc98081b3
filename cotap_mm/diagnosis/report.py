"""Format what ``cotap doctor`` found, for a terminal, an issue, or a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .facts import Facts, Problem
from .hardware import GIB, Folder, Machine
from .imports import Import
from .packages import OPTIONAL
from .privacy import make_private
from .variables import shown_variables

Section = tuple[str, list[tuple[str, str]]]


def sections_of(facts: Facts) -> list[Section]:
    """Tables of a report: (title, rows of name and value)."""
    return [
        ('versions', _versions(facts)),
        ('imports', [(name, _describe_import(each)) for name, each in facts.imports.items()]),
        ('GPU', _gpu(facts)),
        ('machine', _machine(facts.machine)),
        ('folders', [(name, _describe_folder(each)) for name, each in facts.folders.items()]),
        ('optional packages', _optional(facts)),
        ('environment variables', list(shown_variables(facts.environment).items())),
    ]


def format_text(facts: Facts, problems: Sequence[Problem]) -> str:
    """Report for a terminal: problems first, then all facts.

    Args:
        facts (Facts): Facts about the installation.
        problems (sequence[Problem]): See :func:`.find_problems`.

    Returns:
        str: Lines, without private parts of paths.
    """
    lines = [f'cotap doctor: {_summary(facts, problems)}']
    for title, is_broken in (('broken', True), ('warnings', False)):
        chosen = [problem for problem in problems if problem.is_broken == is_broken]
        if chosen:
            lines += ['', title]
        for problem in chosen:
            lines.append(f'  * {problem.text}')
            if problem.remedy:
                lines.append(f'      fix: {problem.remedy}')
    return make_private()('\n'.join([*lines, *_tables(facts)]))


def format_markdown(facts: Facts, problems: Sequence[Problem]) -> str:
    """Report for an issue: the problems as a list, and all facts as a folded block.

    Args:
        facts (Facts): Facts about the installation.
        problems (sequence[Problem]): See :func:`.find_problems`.

    Returns:
        str: Markdown, without private parts of paths.
    """
    lines = [f'**cotap doctor**: {_summary(facts, problems)}', '']
    for problem in problems:
        kind = 'broken' if problem.is_broken else 'warning'
        remedy = f' (fix: `{problem.remedy}`)' if problem.remedy else ''
        lines.append(f'* {kind}: {problem.text}{remedy}')
    lines += ['', '<details><summary>versions and machine</summary>', '', '```text']
    lines += [*_tables(facts)[1:], '```', '', '</details>']
    return make_private()('\n'.join(lines))


def format_json(facts: Facts, problems: Sequence[Problem]) -> str:
    """Report for a program: ``broken``, ``warnings``, and one object per section."""
    private = make_private()

    def rows(is_broken: bool) -> list[dict[str, str]]:
        return [
            dict(text=private(problem.text), fix=private(problem.remedy))
            for problem in problems
            if problem.is_broken == is_broken
        ]

    report: dict[str, Any] = dict(broken=rows(True), warnings=rows(False))
    for title, table in sections_of(facts):
        report[title.replace(' ', '_').lower()] = {name: private(value) for name, value in table}
    return json.dumps(report, indent=2)


def _summary(facts: Facts, problems: Sequence[Problem]) -> str:
    broken = sum(problem.is_broken for problem in problems)
    warnings = len(problems) - broken
    parts = [
        f'{count} {word}{"s" if count > 1 and word == "warning" else ""}'
        for count, word in ((broken, 'broken'), (warnings, 'warning'))
        if count
    ]
    return ', '.join(parts) or (
        'everything needed is installed and works'
        if facts.imports
        else 'no problem found; the libraries were not imported'
    )


def _tables(facts: Facts) -> list[str]:
    lines = []
    sections = [section for section in sections_of(facts) if section[1]]
    width = max(len(name) for _, rows in sections for name, _ in rows)
    for title, rows in sections:
        lines += ['', title, *(f'  {name.ljust(width)}  {value}' for name, value in rows)]
    return lines


def _versions(facts: Facts) -> list[tuple[str, str]]:
    return [
        ('cotap_mm', facts.origin),
        ('python', '.'.join(map(str, facts.python))),
        *facts.versions.items(),
    ]


def _optional(facts: Facts) -> list[tuple[str, str]]:
    return [
        (name, version or f'not installed; for {OPTIONAL[name][0]}: {OPTIONAL[name][1]}')
        for name, version in facts.optional.items()
    ]


def _describe_import(result: Import) -> str:
    if result.status != 'ok':
        return f'{result.status}{": " if result.error else ""}{result.error}'
    text = f'{result.seconds:.1f} s'
    if 'compiled' in result.facts:  # mmcv.ops
        cuda = result.facts['cuda']
        compiled = f'compiled operators (CUDA: {cuda})'
        return f'{text}, {compiled if result.facts["compiled"] else "stand-in of cotap_mm"}'
    if 'facts_error' in result.facts:
        return f'{text}, but {result.facts["facts_error"]}'
    return text


def _gpu(facts: Facts) -> list[tuple[str, str]]:
    imported = facts.imports.get('torch')
    rows = []
    if imported is not None and imported.status == 'ok' and 'version' in imported.facts:
        found = imported.facts
        build = f'CUDA {found["cuda"]}' if found['cuda'] else 'CPU only'
        if found['hip']:
            build = f'ROCm {found["hip"]}'
        rows.append(('torch build', f'{build}, {"GPU" if found["available"] else "no GPU"} usable'))
        for index, gpu in enumerate(found['gpus']):
            state = gpu['error'] or f'{gpu["free"] / GIB:.1f} GB free, computes'
            size = f'{gpu["memory"] / GIB:.0f} GB, compute capability {gpu["capability"]}'
            rows.append((f'GPU {index}', f'{gpu["name"]}, {size}, {state}'))
        if found['available']:
            rows.append(('bfloat16', 'yes' if found['bf16'] else 'no, --amp uses float16'))
            rows.append(('cuDNN', str(found.get('cudnn'))))
        rows.append(('NCCL', found['nccl'] or 'not in this torch'))
        rows.append(('gloo', 'yes' if found['gloo'] else 'not in this torch'))
        rows.append(('CPU threads', f'{found["threads"]} ({found.get("cpu", "unknown")})'))
    driver = facts.machine.driver.splitlines()
    rows += [('nvidia-smi', line) for line in driver]
    if not driver:
        rows.append(('NVIDIA driver', 'present' if facts.machine.has_driver else 'none found'))
    return rows


def _machine(machine: Machine) -> list[tuple[str, str]]:
    shared = 'none'
    if machine.shared_memory >= 0:
        free = machine.free_shared_memory
        shared = f'{free / GIB:.1f} GB free of {machine.shared_memory / GIB:.1f} GB'
    return [
        ('system', machine.system),
        ('CPU', f'{machine.processor}; {machine.cores} cores, {machine.usable_cores:g} usable'),
        (
            'memory',
            f'{machine.free_memory / GIB:.1f} GB available of {machine.memory / GIB:.1f} GB',
        ),
        ('/dev/shm', shared),
        ('open files', f'{machine.open_files} per process' if machine.open_files else 'unknown'),
    ]


def _describe_folder(folder: Folder) -> str:
    state = f'not writable: {folder.error}' if folder.error else 'writable'
    disk = f'{folder.free / GIB:.1f} GB free of {folder.total / GIB:.1f} GB, '
    return f'{folder.path}: {disk if folder.total else ""}{state}'
