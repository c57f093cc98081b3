"""CPU, memory, disks and GPU driver of this machine, without PyTorch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

GIB = 2**30
_DRIVER_FILES = ('/dev/nvidiactl', '/proc/driver/nvidia/version', '/dev/dxg')  # dxg: WSL
_QUERY = 'name,driver_version,memory.total,memory.used'


@dataclass
class Folder:
    """A folder that runs write to.

    Attributes:
        path (str): The folder, which need not exist yet.
        free (int): Free bytes of its disk.
        total (int): Size of its disk in bytes.
        error (str): Why nothing can be written there; '' if it can.
    """

    path: str
    free: int = 0
    total: int = 0
    error: str = ''


@dataclass
class Machine:
    """CPU, memory and driver.

    Attributes:
        system (str): Operating system and processor type.
        processor (str): Name of the CPU.
        cores (int): Number of logical cores.
        usable_cores (float): Cores that this process may use: affinity and container limit.
        memory (int): Bytes of memory that this process may use.
        free_memory (int): Bytes that are available now.
        shared_memory (int): Size of /dev/shm in bytes; -1 where the system has none.
        free_shared_memory (int): Free bytes of /dev/shm.
        open_files (int): Largest number of open files per process; 0 if unknown.
        has_driver (bool): Whether an NVIDIA driver is present.
        driver (str): Output of nvidia-smi, one GPU per line; '' if it does not run.
    """

    system: str = ''
    processor: str = ''
    cores: int = 1
    usable_cores: float = 1
    memory: int = 0
    free_memory: int = 0
    shared_memory: int = -1
    free_shared_memory: int = 0
    open_files: int = 0
    has_driver: bool = False
    driver: str = ''


def inspect_machine() -> Machine:
    """Collect the facts about this machine."""
    memory, free = _memory()
    shared = _disk('/dev/shm')
    cores = os.cpu_count() or 1
    return Machine(
        system=platform.platform(),
        processor=_processor(),
        cores=cores,
        usable_cores=usable_cores(),
        memory=memory,
        free_memory=free,
        shared_memory=shared[1] if shared else -1,
        free_shared_memory=shared[0] if shared else 0,
        open_files=_open_files(),
        has_driver=any(map(os.path.exists, _DRIVER_FILES)),
        driver=_nvidia_smi(),
    )


def inspect_folder(path: str) -> Folder:
    """Check the disk of a folder, and whether a file can be created there.

    Nothing remains of the check. A folder that does not exist is represented by the parent in
    which it would be created.
    """
    existing = Path(path).expanduser().absolute()
    try:
        existing = next(each for each in (existing, *existing.parents) if each.exists())
        if not existing.is_dir():
            return Folder(path, error=f'{existing} is a file')
        disk = _disk(str(existing))
        folder = Folder(path, *(disk or (0, 0)))
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b'x')
            file.flush()
    except OSError as error:
        return Folder(path, *(_disk(str(existing)) or (0, 0)), error=error.strerror or str(error))
    return folder


def usable_cores() -> float:
    """Cores that this process may use: at most its affinity and the limit of its container."""
    try:
        cores: float = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    quota = _first_line('/sys/fs/cgroup/cpu.max').split()
    if len(quota) != 2:
        quota = [
            _first_line(f'/sys/fs/cgroup/cpu/cpu.cfs_{name}_us') for name in ('quota', 'period')
        ]
    if all(re.fullmatch(r'\d+', text) for text in quota):
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def _memory() -> tuple[int, int]:
    """Total and available bytes, at most those of the container."""
    facts = dict(re.findall(r'^(\w+):\s+(\d+) kB', _text('/proc/meminfo'), re.MULTILINE))
    total = int(facts.get('MemTotal', 0)) * 1024
    free = int(facts.get('MemAvailable', 0)) * 1024
    for limit, used in (
        ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
        (
            '/sys/fs/cgroup/memory/memory.limit_in_bytes',
            '/sys/fs/cgroup/memory/memory.usage_in_bytes',
        ),
    ):
        numbers = [_first_line(limit), _first_line(used)]
        if all(re.fullmatch(r'\d+', text) for text in numbers) and int(numbers[0]) < total:
            total = int(numbers[0])
            free = min(free, total - int(numbers[1]))
    return total, max(free, 0)


def _processor() -> str:
    found = re.search(r'^model name\s*:\s*(.+)$', _text('/proc/cpuinfo'), re.MULTILINE)
    return ' '.join((found[1] if found else platform.processor() or platform.machine()).split())


def _open_files() -> int:
    try:
        import resource  # not on Windows

        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError, ValueError):
        return 0


def _nvidia_smi() -> str:
    """Name, driver and memory of each GPU; '' without nvidia-smi, its message if it fails."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return ''
    try:
        done = subprocess.run(
            [program, f'--query-gpu={_QUERY}', '--format=csv,noheader'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f'nvidia-smi failed: {error}'
    text = done.stdout.strip()
    return text if done.returncode == 0 else f'nvidia-smi failed: {" ".join(text.split())}'


def _disk(path: str) -> Optional[tuple[int, int]]:
    """Free and total bytes of the disk of an existing folder; None if it has none."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return usage.free, usage.total


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''


def _first_line(path: str) -> str:
    return (_text(path).splitlines() or [''])[0].strip()
