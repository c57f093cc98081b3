"""Try to import the libraries in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Module -> distributions that provide it. In this order, in which each needs the ones before.
#: cotap_mm comes before MMCV, to which it gives operators.
MODULES = {
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'numpy': ('numpy',),
    'cv2': ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python'),
    'mmengine': ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
    'cotap_mm': (),
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    'mmcv.ops': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'cotap_mm.models': (),
    'mmseg.models': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmdet.models': ('mmdet', 'onedl-mmdetection'),
}
_PROBE = Path(__file__).with_name('import_probe.py')
# The probe sees what this process sees: its own folder must not hide libraries.
_START = (
    'import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); '
    'file = sys.argv.pop(1); sys.argv[0] = file; runpy.run_path(file, run_name="__main__")'
)


@dataclass
class Import:
    """Result of importing a module.

    Attributes:
        status (str): 'ok', 'failed', 'crashed' (it ended the process), 'timed out', or
            'not tried', since an earlier module crashed.
        seconds (float): Duration.
        error (str): One line; '' if it was imported.
        facts (dict): See :mod:`.import_probe`.
    """

    status: str = 'not tried'
    seconds: float = 0.0
    error: str = ''
    facts: dict[str, Any] = field(default_factory=dict)


def try_imports(names: Sequence[str], seconds: float = 300.0) -> dict[str, Import]:
    """Import modules one after the other in a new process.

    Args:
        names (sequence[str]): Modules.
        seconds (float): Limit for all of them together. Defaults to 300.

    Returns:
        dict[str, Import]: Result for each module.
    """
    results = {name: Import() for name in names}
    with tempfile.TemporaryDirectory(prefix='cotap_doctor_') as folder:
        file = Path(folder) / 'results'
        file.touch()
        command = [
            *(sys.executable, '-c', _START, json.dumps(sys.path)),
            *(str(_PROBE), str(file), *names),
        ]
        ended = _run(command, seconds)
        for line in file.read_text(encoding='utf-8').splitlines():
            record = json.loads(line)
            result = results[record.pop('name')]
            for key, value in record.items():
                setattr(result, key, value)
    for result in results.values():
        if result.status == 'started':
            result.status, result.error = ended
    return results


def _run(command: list[str], seconds: float) -> tuple[str, str]:
    """Run a process; return status and error of an import that it did not complete."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
        env=dict(os.environ, PYTHONWARNINGS='ignore'),
    )
    try:
        errors = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        return 'timed out', f'no result within {seconds:.0f} s'
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    code = process.returncode
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), '')
    if code < 0:
        try:
            last = f'{signal.Signals(-code).name} {last}'.strip()
        except ValueError:
            last = f'signal {-code} {last}'.strip()
    return 'crashed', last or f'exit status {code}'
