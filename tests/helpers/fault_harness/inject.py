"""Inject a fault from within the training process."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Callable

from tests.helpers.fault_harness.draw import CLOCK, FILES, Fault
from tests.helpers.fault_harness.toy_training import IMAGES, WORK

DAY = 86400.0
_CHANGES = (
    'open to write',
    'write',
    'fsync',
    'rename',
    'remove',
    'mkdir',
    'truncate',
    'rmdir',
    'link',
)
#: Operations on the work folder that fail, and with which error.
_FAILURES = {
    'full disk': (('write', 'mkdir'), errno.ENOSPC),
    'full tmpfs': ((), errno.ENOSPC),  # the file system itself fails
    'read-only': (_CHANGES, errno.EROFS),
    'failing writes': (('write', 'fsync'), errno.EIO),
    'unreachable folder': ((*_CHANGES, 'open to read', 'listdir', 'scandir'), errno.ESTALE),
}
_SLOW = 0.05  # seconds of a slow read


class Injector:
    """Wait for the drawn event, and inject the fault.

    Args:
        fault (Fault): Fault to inject.
        counts (dict): Number of events of this rank in an uninterrupted run, by moment.
        folder (Path): Folder of the case.
        report (callable): Called with a line of text for the parent: ``fault ...`` as soon
            as it happens, ``hit ...`` with an image that cannot be read.
        has_tmpfs (bool): Whether the work folder is a small file system of its own.
    """

    def __init__(
        self,
        fault: Fault,
        counts: dict[str, int],
        folder: Path,
        report: Callable[[str], None],
        has_tmpfs: bool,
    ) -> None:
        self.fault, self.folder, self.report = fault, folder, report
        self.kind = fault.kind
        if self.kind == 'full tmpfs' and not has_tmpfs:
            self.kind = 'full disk'
        self.at = int(fault.place * counts.get(fault.moment, 1))
        self.work, self.images = str(folder / WORK), str(folder / IMAGES)
        self.is_due = self.has_happened = self.is_active = False
        self.left = fault.span
        self.image: str | None = None

    def __call__(self, moment: str, number: int, what: str, path: str | None) -> None:
        """Handle an event of :class:`~fault_harness.probes.Probes`."""
        # Later than drawn if there is no loader worker, or no folder, yet.
        self.is_due = self.is_due or (moment == self.fault.moment and number >= self.at)
        if self.is_due and not self.has_happened:
            self.has_happened = True  # a signal raises from within
            self.has_happened = self._happen(f'{moment}, event {number}: {what} {path or ""}')
        if self.is_active:
            self._fail(what, path)

    def _happen(self, where: str) -> bool:
        """Start the fault; False if it is too early."""
        if self.kind in ('kill a worker', 'stop a worker'):
            return self._hit_a_worker(where)
        if self.kind == 'deleted folder' and not os.path.isdir(self.work):
            return False
        self.report(f'fault {where}')
        if is_a_kill(self.fault):
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind in CLOCK:
            set_clock_back()
        elif self.kind in ('stop', 'freeze'):
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.kind == 'signal':
            os.kill(os.getpid(), getattr(signal, self.fault.signal))
        elif self.kind == 'images away':
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # another rank was first
                os.mkdir(f'{self.images}.once')
                os.rename(self.images, f'{self.images}.away')
        elif self.kind == 'deleted folder':
            shutil.rmtree(self.work, ignore_errors=True)
        else:
            self.is_active = True
            if self.kind == 'full tmpfs':
                self._fill()
        return True

    def _hit_a_worker(self, where: str) -> bool:
        workers = multiprocessing.active_children()
        if not workers:
            return False
        is_kill = self.kind == 'kill a worker'
        self.report(f'fault {where}' if is_kill else f'worker {workers[0].pid} {where}')
        os.kill(workers[0].pid or 0, signal.SIGKILL if is_kill else signal.SIGSTOP)
        return True

    def _fail(self, what: str, path: str | None) -> None:
        """Let an operation fail while the fault is active."""
        if self.kind == 'slow reads':
            if path and path.startswith(self.images) and what == 'open to read':
                time.sleep(_SLOW)
            return
        if self.kind == 'one image unreadable':
            is_image = path and path.startswith(f'{self.images}{os.sep}')
            if is_image and what == 'open to read' and self.image in (None, path):
                if self.image is None:
                    self.report(f'hit {path}')
                self.image = path
                self._count_down()
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return
        if path is None or not (path == self.work or path.startswith(f'{self.work}{os.sep}')):
            return
        operations, number = _FAILURES[self.kind]
        self._count_down()
        if what in operations:
            raise OSError(number, os.strerror(number), path)

    def _count_down(self) -> None:
        if self.fault.span:
            self.left -= 1
            if self.left <= 0:
                self.is_active = False
                free_space(Path(self.work))

    def _fill(self) -> None:
        handle = os.open(os.path.join(self.work, 'filler.bin'), os.O_WRONLY | os.O_CREAT)
        try:
            for size in (1 << 16, 1):
                while os.write(handle, bytes(size)):
                    pass
        except OSError:
            pass
        finally:
            os.close(handle)


def is_a_kill(fault: Fault) -> bool:
    """Whether a fault starts with a kill."""
    return fault.kind in ('kill', *FILES) or (fault.kind in CLOCK and fault.spot >= 0.5)


def free_space(work: Path) -> None:
    """Delete the file that fills the file system."""
    with contextlib.suppress(OSError):
        (work / 'filler.bin').unlink()


def set_clock_back() -> None:
    """Set the clock of this process back by one day."""
    now = time.time
    time.time = lambda: now() - DAY
