"""Features of a file that is not complete yet: parts in a folder next to it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from cotap_mm.files.atomic_write import atomic_write, zip_error

_TASK = 'task.json'
_LOCK = '.lock'
_PREFIX = 'feature_'


class Parts:
    """Parts of a feature file, each with the features of consecutive images.

    A part is written atomically, so that a killed run leaves only complete ones.

    Args:
        out (Path): File that the parts are for.
        task (str): Digest of everything that the features depend on.
        count (int): Number of images.
        rows (int): Images per part.
    """

    def __init__(self, out: Path, task: str, count: int, rows: int) -> None:
        self.folder = out.with_name(f'{out.name}.parts')
        self.task, self.count, self.rows = task, count, rows

    def __len__(self) -> int:
        return -(-self.count // self.rows)

    @property
    def lock(self) -> Path:
        """Lock file of the process that writes."""
        return self.folder / _LOCK

    def path(self, number: int) -> Path:
        """File of a part."""
        return self.folder / f'{number:06d}.npz'

    def indices(self, number: int) -> range:
        """Indices of the images of a part."""
        return range(number * self.rows, min((number + 1) * self.rows, self.count))

    def batches(self, number: int, batch_size: int) -> list[range]:
        """Indices of the images of each batch of a part; no batch is in two parts."""
        indices = self.indices(number)
        return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]

    @property
    def done(self) -> int:
        """Number of images whose features are written."""
        return sum(len(self.indices(number)) for number in range(len(self)) if self.has(number))

    def open(self) -> None:
        """Keep the parts of an earlier run with the same task, and delete others."""
        record = dict(task=self.task, count=self.count, rows=self.rows)
        try:
            is_same = json.loads((self.folder / _TASK).read_text(encoding='utf-8')) == record
        except (OSError, ValueError):
            is_same = False
        if is_same:
            for number in range(len(self)):
                problem = zip_error(self.path(number)) if self.has(number) else None
                if problem:
                    print_log(
                        f'{self.path(number)} {problem}; computing it again',
                        logger='current',
                        level=logging.WARNING,
                    )
                    self.path(number).unlink()
            return
        old = [path for path in self.folder.iterdir() if path.name != _LOCK]
        if any(path.suffix == '.npz' for path in old):
            print_log(
                f'{self.folder} has features of other images, weights or settings; starting over',
                logger='current',
                level=logging.WARNING,
            )
        for path in old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with atomic_write(self.folder / _TASK) as partial:
            partial.write_text(json.dumps(record), encoding='utf-8')

    def has(self, number: int) -> bool:
        """Whether a part is written."""
        return self.path(number).is_file()

    def save(
        self,
        number: int,
        indices: Sequence[int],
        arrays: dict[str, np.ndarray],
        unreadable: dict[int, str],
    ) -> None:
        """Write a part.

        Args:
            number (int): Number of the part.
            indices (sequence): Indices of the readable images, length n.
            arrays (dict): Feature -> array with n rows.
            unreadable (dict): Index of each unreadable image -> why.
        """
        content: dict[str, Any] = {f'{_PREFIX}{name}': array for name, array in arrays.items()}
        content['indices'] = np.asarray(indices, dtype=np.int64)
        content['unreadable'] = np.array(json.dumps([[i, why] for i, why in unreadable.items()]))
        with atomic_write(self.path(number)) as partial, open(partial, 'wb') as file:
            np.savez(file, **content)

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Read all features, part by part; parts without a readable image are skipped."""
        for number in range(len(self)):
            features = self._features(number)
            if features:
                yield features

    def feature(self, name: str) -> Iterator[np.ndarray]:
        """Read one feature of all readable images, part by part."""
        for number in range(len(self)):
            yield from self._features(number, name).values()

    def readable(self) -> tuple[list[int], dict[int, str]]:
        """Return the indices of the readable images, and why the others are unreadable."""
        indices: list[int] = []
        unreadable: dict[int, str] = {}
        for number in range(len(self)):
            with np.load(self.path(number)) as archive:
                indices += archive['indices'].tolist()
                unreadable.update(map(tuple, json.loads(str(archive['unreadable']))))
        return indices, unreadable

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape per image and type of each feature."""
        for number in range(len(self)):
            features = self._features(number)
            if features:
                return {name: (array.shape[1:], array.dtype) for name, array in features.items()}
        return {}

    def _features(self, number: int, only: str = '') -> dict[str, np.ndarray]:
        """Read the features of a part, or one of them."""
        with np.load(self.path(number)) as archive:
            return {
                key[len(_PREFIX) :]: archive[key]
                for key in archive.files
                if (key == f'{_PREFIX}{only}' if only else key.startswith(_PREFIX))
            }

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
