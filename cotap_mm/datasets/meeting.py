"""How ranks that build one file together wait for each other: by files beside it.

Not by collectives, which give up after 10 to 30 minutes; reading ImageNet takes longer.
"""
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Optional

import numpy as np
from mmengine.dist import barrier

from cotap_mm.files import whole_file
from cotap_mm.ops import rank, world_size

from .global_features import remove_part

_POLL = 0.5  # seconds


class OtherRankFailed(RuntimeError):
    """Another rank could not do its part."""


class Meeting:
    """Files beside ``out`` that ranks write and wait for; see :func:`meet`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.failure = out.with_name(f'{out.name}.failed')

    def features(self, number: int) -> Path:
        """Where the features of a part of the images are kept."""
        return self.out.with_name(f'{self.out.name}.features.{number:05d}')

    def wait(self, is_ready: Callable[[], bool]) -> None:
        """Until ``is_ready()``.

        Raises:
            OtherRankFailed: If a rank left a note that it failed.
        """
        while not is_ready():
            if self.failure.is_file():
                raise OtherRankFailed('another rank could not build the neighbours: '
                                      f'{self.failure.read_text(encoding="utf-8")}')
            time.sleep(_POLL)

    def collect(self, rows: np.ndarray) -> Optional[np.ndarray]:
        """All ranks' rows, one below the other, on rank 0; None elsewhere."""
        if world_size() == 1:
            return rows
        place = self._rows(rank())
        with whole_file(place) as partial:
            np.save(partial, rows, allow_pickle=False)
        if rank():
            return None
        places = [self._rows(other) for other in range(world_size())]
        self.wait(lambda: all(path.is_file() for path in places))
        return np.concatenate([np.load(path, allow_pickle=False) for path in places])

    def leave(self) -> None:
        """Rank 0 deletes the files; the others wait until it has."""
        if rank():
            self.wait(lambda: not self._rows(rank()).is_file())
            return
        for path in self.out.parent.glob(f'{self.out.name}.features.*'):
            if path.suffix != '.json':
                remove_part(path)
        for other in range(world_size()):
            if self._rows(other).is_file():
                self._rows(other).unlink()

    def _rows(self, of_rank: int) -> Path:
        return self.out.with_name(f'{self.out.name}.rows.{of_rank}of{world_size()}.npy')


@contextmanager
def meet(out: Path) -> Iterator[Meeting]:
    """All ranks work on the file ``out``; where one fails, the others hear of it.

    Args:
        out (Path): In a folder that all ranks see.

    Yields:
        Meeting: Their files.
    """
    meeting = Meeting(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        if meeting.failure.exists():
            meeting.failure.unlink()
        for path in out.parent.glob(f'{out.name}.rows.*'):  # of a run that was interrupted
            path.unlink()
    barrier()
    try:
        yield meeting
    except OtherRankFailed:
        raise
    except BaseException as error:
        if world_size() > 1:
            meeting.failure.write_text(f'{type(error).__name__}: {error}', encoding='utf-8')
        raise
