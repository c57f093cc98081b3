"""Versions that are missing, too old, or do not work together, and libraries that do not import."""

from __future__ import annotations

from collections.abc import Iterator

from cotap_mm.compat.workarounds import REQUIREMENTS, version_numbers

from .facts import Facts, Problem
from .imports import Import

#: Supported versions of Python: the first and the last one that was tested.
PYTHONS = ((3, 9), (3, 14))
#: Distributions that own the same folder, so that only one of them may be installed.
EXCLUSIVE = (
    ('mmcv', 'mmcv-lite', 'onedl-mmcv', 'mmcv-full'),
    ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    ('mmpretrain', 'onedl-mmpretrain'),
    ('mmsegmentation', 'onedl-mmsegmentation'),
    ('mmdet', 'onedl-mmdetection'),
)
#: For torch and torchvision.
REINSTALL = 'pip install --force-reinstall "torch=={}" "torchvision=={}"'


def version_problems(facts: Facts) -> Iterator[Problem]:
    """Find problems of the installed packages.

    Args:
        facts (Facts): Facts about the installation.

    Yields:
        Problem: With the command that repairs it.
    """
    yield from _python(facts)
    yield from _requirements(facts)
    yield from _exclusive(facts)
    yield from _combinations(facts)
    yield from _imports(facts)


def matching_torchvision(torch: str) -> str:
    """Version of torchvision that belongs to a version of torch.

    Args:
        torch (str): Version such as '2.11.0+cpu'.

    Returns:
        str: torch 2.N.P goes with torchvision 0.(N + 15).P; '' for other versions.
    """
    parts = version_numbers(torch)
    if len(parts) < 2 or parts[0] != 2:
        return ''
    return f'0.{parts[1] + 15}.{parts[2] if len(parts) > 2 else 0}'


def _python(facts: Facts) -> Iterator[Problem]:
    lowest, highest = ('.'.join(map(str, each)) for each in PYTHONS)
    own = '.'.join(map(str, facts.python))
    if facts.python[:2] < PYTHONS[0]:
        yield Problem(
            f'Python {own} is not supported; {lowest} to {highest} are',
            'create an environment with another version, e.g. uv venv --python 3.11',
        )
    elif facts.python[:2] > PYTHONS[1]:
        yield Problem(
            f'Python {own} is newer than {highest}, the last version that was tested',
            'if something fails, use an environment with Python 3.11, e.g. uv venv --python 3.11',
            is_broken=False,
        )


def _requirements(facts: Facts) -> Iterator[Problem]:
    for name, lowest, distributions, remedy in REQUIREMENTS:
        version = next((facts.versions[d] for d in distributions if d in facts.versions), None)
        if version is None:
            yield Problem(f'{name} >= {lowest} is required but not installed', remedy)
        elif version_numbers(version) < version_numbers(lowest):
            yield Problem(f'{name} >= {lowest} is required, {version} is installed', remedy)
    if 'torch' in facts.versions and 'torchvision' not in facts.versions:
        vision = matching_torchvision(facts.versions['torch'])
        yield Problem(
            'torchvision is required but not installed',
            f'pip install "torchvision{f"=={vision}" if vision else ""}"',
        )
    if not facts.has_pkg_resources:
        yield Problem(
            'setuptools >= 81 has no pkg_resources, which MMEngine needs for configs that inherit '
            'from another package',
            'pip install "setuptools<81"',
            is_broken=False,
        )


def _exclusive(facts: Facts) -> Iterator[Problem]:
    for names in EXCLUSIVE:
        found = [name for name in names if name in facts.versions]
        if len(found) > 1:
            keep = next((name for name in found if name.startswith('onedl-')), found[-1])
            version = facts.versions[keep]
            yield Problem(
                f'{" and ".join(found)} are installed and overwrite each other',
                f'pip uninstall -y {" ".join(found)} && pip install "{keep}=={version}"',
            )


def _combinations(facts: Facts) -> Iterator[Problem]:
    """Versions that do not work together."""
    versions = {name: version_numbers(version) for name, version in facts.versions.items()}
    torch = versions.get('torch', (9,))
    number = facts.versions.get('torch', '')
    if torch < (2, 3) and versions.get('numpy', (0,)) >= (2,):
        yield Problem(
            f'torch {number} does not work with numpy {facts.versions["numpy"]}',
            'pip install "numpy<2"',
        )
    limit = (4, 49) if torch < (2, 2) else (5,)
    if torch < (2, 5) and versions.get('transformers', (0,)) >= limit:
        text = '.'.join(map(str, limit))
        yield Problem(
            f'torch {number} does not work with transformers {facts.versions["transformers"]}',
            f'pip install "transformers>=4.40,<{text}"',
        )
    vision = matching_torchvision(number)
    own = facts.versions.get('torchvision', '')
    if vision and own and version_numbers(own)[:2] != version_numbers(vision)[:2]:
        yield Problem(
            f'torchvision {own} does not belong to torch {number}',
            f'pip install "torchvision=={vision}"',
        )
    mmcv = next((name for name in EXCLUSIVE[0] if name in versions), '')
    for name in ('mmsegmentation', 'mmdet'):
        if name in versions and versions.get(mmcv, (0,)) >= (2, 2):
            yield Problem(
                f'{name} {facts.versions[name]} rejects {mmcv} {facts.versions[mmcv]}',
                f'pip uninstall -y {mmcv} && pip install "mmcv-lite>=2.1,<2.2"',
            )


def _imports(facts: Facts) -> Iterator[Problem]:
    """Libraries that are installed and cannot be imported; each cause once."""
    seen = set()
    is_incomplete = bool([*_requirements(facts), *_exclusive(facts)])
    for name, result in facts.imports.items():
        if result.status in ('ok', 'not tried') or result.error in seen:
            continue
        if name.startswith('cotap_mm') and is_incomplete:
            continue  # it names what is missing, as this report does
        seen.add(result.error)
        how = 'cannot be imported' if result.status == 'failed' else f'{result.status} on import'
        yield Problem(f'{name} {how}: {result.error}', _import_remedy(name, result, facts))
        if name == 'torch':
            return  # what depends on it fails, too


def _import_remedy(name: str, result: Import, facts: Facts) -> str:
    if name == 'cv2' and 'lib' in result.error:  # libGL.so.1 of a machine without a screen
        return (
            'pip uninstall -y opencv-python opencv-python-headless && '
            'pip install opencv-python-headless'
        )
    if name in ('torch', 'torchvision'):
        torch = facts.versions.get('torch', '').split('+')[0]
        return REINSTALL.format(torch, matching_torchvision(torch)) if torch else ''
    if name == 'mmcv.ops':
        own = next((each for each in EXCLUSIVE[0] if each in facts.versions), 'mmcv')
        return f'pip uninstall -y {own} && pip install "mmcv-lite>=2.1,<2.2"'
    return 'COTAP_TRACEBACK=1 python -c "import ' + name + '" shows where'
