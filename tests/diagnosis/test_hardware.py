"""Facts about the machine are plausible, and folders are checked by writing to them."""

from __future__ import annotations

import os

import pytest

from cotap_mm.diagnosis import hardware
from cotap_mm.diagnosis.hardware import GIB, inspect_folder, inspect_machine


def test_this_machine():
    machine = inspect_machine()
    assert 0 < machine.usable_cores <= machine.cores
    assert 0 < machine.free_memory <= machine.memory
    assert machine.system and machine.processor and machine.open_files > 0


def test_limits_of_a_container(monkeypatch):
    files = {
        '/sys/fs/cgroup/cpu.max': '150000 100000\n',
        '/sys/fs/cgroup/memory.max': str(2 * GIB),
        '/sys/fs/cgroup/memory.current': str(GIB),
        '/proc/meminfo': 'MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\n',
    }
    monkeypatch.setattr(hardware, '_text', lambda path: files.get(path, ''))
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)), raising=False)
    assert hardware.usable_cores() == 1.5
    assert hardware._memory() == (2 * GIB, GIB)
    files['/sys/fs/cgroup/cpu.max'] = 'max 100000'
    files['/sys/fs/cgroup/memory.max'] = 'max'
    assert hardware.usable_cores() == 8
    assert hardware._memory() == (64 * GIB, 60000000 * 1024)


def test_folders(tmp_path):
    folder = inspect_folder(str(tmp_path / 'not' / 'yet'))
    assert folder.error == '' and 0 < folder.free <= folder.total
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'file').touch()
    assert inspect_folder(str(tmp_path / 'file')).error.endswith('is a file')


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(**options):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(hardware.tempfile, 'TemporaryFile', refuse)
    folder = inspect_folder(str(tmp_path))
    assert folder.error == 'Read-only file system' and folder.total > 0


@pytest.mark.parametrize(
    'script, text',
    [
        ('echo "H100, 580.1, 81559 MiB, 4 MiB"', 'H100, 580.1, 81559 MiB, 4 MiB'),
        (
            'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18',
            'nvidia-smi failed: Failed to initialize NVML: Driver/library version mismatch',
        ),
    ],
)
def test_nvidia_smi(tmp_path, monkeypatch, script, text):
    program = tmp_path / 'nvidia-smi'
    program.write_text(f'#!/bin/sh\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    assert hardware._nvidia_smi() == text
