"""Damage files of a case while no training is running."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from tests.helpers.fault_harness.draw import Fault
from tests.helpers.fault_harness.inject import DAY
from tests.helpers.fault_harness.toy_training import IMAGES, INIT, PACKED, WORK

#: File that the code in a malicious file would create.
CANARY = 'executed'
_STEP = re.compile(r'iter_(\d+)\.pth$')


class Bomb:
    """Create a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return open, (self.path, 'w')


def find_victim(fault: Fault, folder: Path) -> Path | None:
    """File that a fault damages; None if it does not exist (yet)."""
    work = folder / WORK
    steps = sorted(
        (int(_STEP.search(path.name)[1]), path)  # type: ignore[index]
        for path in work.glob('iter_*.pth')
        if _STEP.search(path.name)
    )
    candidates = {
        'newest checkpoint': [path for _, path in steps[-1:]],
        'older checkpoint': [path for _, path in steps[:-1][-1:]],
        'its record': [path.with_name(f'{path.name}.json') for _, path in steps[-1:]],
        'later checkpoint': [work / 'iter_99.pth'] if work.is_dir() else [],
        'last_checkpoint': [work / 'last_checkpoint'],
        'neighbor file': sorted(work.glob('neighbors_*.npy')),
        'features': sorted(path for path in work.glob('*.features.*') if path.suffix != '.json'),
        'image': sorted((folder / IMAGES).iterdir())[int(fault.spot * 12) :][:1],
        'packed images': [folder / PACKED],
        'init checkpoint': [folder / INIT],
    }[fault.victim]
    victims = [path for path in candidates if path.is_file() or fault.victim == 'later checkpoint']
    return victims[0] if victims else None


def damage_file(fault: Fault, folder: Path) -> Path | None:
    """Truncate, flip a bit of, delete or replace a file.

    Args:
        fault (Fault): Fault with ``kind``, ``victim`` and ``spot``.
        folder (Path): Folder of the case.

    Returns:
        Path, optional: The file; None if it did not exist.
    """
    path = find_victim(fault, folder)
    if path is None:
        return None
    if fault.kind == 'lose':
        path.unlink()
    elif fault.kind == 'cut':
        os.truncate(path, int(fault.spot * path.stat().st_size))
    elif fault.kind == 'flip':
        content = bytearray(path.read_bytes())
        if content:
            content[int(fault.spot * len(content))] ^= 1 << int(fault.spot * 1e6) % 8
        path.write_bytes(bytes(content))
    else:
        _poison(path, folder / CANARY, fault.spot)
    return path


def _poison(path: Path, canary: Path, spot: float) -> None:
    """Replace a file by one that runs code when it is unpickled, or that refers to such a file."""
    bomb = pickle.dumps(Bomb(canary), protocol=2)
    if path.suffix == '.npy':
        array = np.empty(2, dtype=object)
        array[:] = [Bomb(canary), 0]
        np.save(path, array, allow_pickle=True)
    elif path.suffix == '.npz':
        with zipfile.ZipFile(path, 'w') as archive:
            for name in ('names', 'indices', 'meta'):
                header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
                header += b' ' * (-(10 + len(header) + 1) % 64) + b'\n'
                archive.writestr(
                    f'{name}.npy',
                    b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header + bomb,
                )
    elif path.name == 'last_checkpoint':
        other = path.with_name('elsewhere.pth')
        _poison(other, canary, spot)
        path.write_text(str(other))
    elif path.suffix == '.json':
        path.write_text(
            json.dumps(dict(good=[dict(bytes='9', sha256=None), 7]))
            if spot < 0.5
            else '[' * 100_000
        )
    elif spot < 0.5:
        path.write_bytes(bomb)
    else:
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('archive/data.pkl', bomb)
            archive.writestr('archive/version', '3\n')


def advance_times(work: Path) -> None:
    """Make all files a day younger, as they appear after the clock was set back."""
    for path in work.rglob('*'):
        if path.is_file() and not path.is_symlink():
            state = path.stat()
            os.utime(path, (state.st_atime + DAY, state.st_mtime + DAY))
