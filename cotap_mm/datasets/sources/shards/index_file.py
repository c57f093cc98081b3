"""Content of the index of tar shards, and the file that it is kept in."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Union

import numpy as np

from cotap_mm.datasets.sources.folders.index_file import checked_names
from cotap_mm.datasets.sources.names import NameFacts, Names
from cotap_mm.files.atomic_write import name_bytes, name_text

from .mapped import map_arrays
from .stores import Facts

_FORMAT = 'cotap_mm shards 1'
PACKED = ''  # version of shards that are recognized by their size alone
_CHECKED = 64  # numbers of shards in a mapped index


class ShardIndex(NamedTuple):
    """Where the images of some shards are.

    Attributes:
        shards (list[str]): Names of the files.
        facts (list[Facts]): Size and version of each.
        names (Names): Names of the images.
        shard (np.ndarray): Number of each image's shard, (N,), int32.
        start (np.ndarray): Start of its content in bytes, (N,), int64.
        size (np.ndarray): Its length in bytes, (N,), int64; 0 if it could not be packed.
    """

    shards: list[str]
    facts: list[Facts]
    names: Names
    shard: np.ndarray
    start: np.ndarray
    size: np.ndarray

    def fits(self, files: Mapping[str, Facts], shards: Sequence[str]) -> bool:
        """Whether it describes these shards, in their present versions."""
        return self.shards == list(shards) and all(
            name in files
            and files[name].size == facts.size
            and facts.version in (PACKED, files[name].version)
            for name, facts in zip(self.shards, self.facts)
        )

    def digest(self) -> str:
        """Digest of the shards' names, sizes and versions."""
        lines = [f'{facts.size} {facts.version}\0' for facts in self.facts]
        data = b''.join(name_bytes(a) + b'\0' + b.encode() for a, b in zip(self.shards, lines))
        return hashlib.sha256(data).hexdigest()


def write_index(file: BinaryIO, index: ShardIndex) -> None:
    """Encode an index as ``*.npz``, piece by piece.

    Args:
        file (BinaryIO): Where to write.
        index (ShardIndex): What to write.
    """
    names, starts = index.names.arrays()
    facts = json.dumps(NameFacts.of(index.names)._asdict()).encode()
    np.savez(
        file,
        format=np.array(_FORMAT),
        shards=_joined(index.shards),
        shard_sizes=np.array([facts.size for facts in index.facts], np.int64),
        versions=_joined([facts.version for facts in index.facts]),
        names=names,
        name_starts=starts,
        name_facts=np.frombuffer(facts, np.uint8),
        shard=index.shard,
        start=index.start,
        size=index.size,
    )


def read_index(saved: Union[bytes, Path]) -> ShardIndex:
    """Decode what :func:`write_index` encoded.

    Args:
        saved (bytes | Path): The content, or a file to map into memory. Of a mapped one, some
            names and shards are checked.

    Raises:
        ValueError: If it is damaged or of another format; also KeyError, OSError, BadZipFile and
            struct.error.
    """
    if isinstance(saved, Path):
        return _index_of(map_arrays(saved), True)
    with np.load(io.BytesIO(saved), allow_pickle=False) as file:
        return _index_of(file, False)


def _index_of(file: Mapping[str, np.ndarray], is_mapped: bool) -> ShardIndex:
    if str(file['format']) != _FORMAT:
        raise ValueError(f'the format of an index must be {_FORMAT}, got {file["format"]}')
    shards = _split(file['shards'])
    facts = [
        Facts(int(size), version)
        for size, version in zip(file['shard_sizes'], _split(file['versions']))
    ]
    if 'name_facts' in file:
        known = NameFacts.read(json.loads(file['name_facts'].tobytes()))
        names = checked_names(file['names'], file['name_starts'], is_mapped, known)
    else:  # written by an earlier version
        names = Names.from_joined(file['names'].tobytes())
    index = ShardIndex(shards, facts, names, file['shard'], file['start'], file['size'])
    lengths = {len(names), *(len(array) for array in index[3:])}
    numbers = index.shard[:: max(len(index.shard) // _CHECKED, 1)] if is_mapped else index.shard
    if len(lengths) > 1 or len(facts) != len(shards) or numbers.max(initial=0) >= len(shards):
        raise ValueError('the parts of the index do not fit each other')
    return index


def _joined(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b'\0'.join(map(name_bytes, texts)), np.uint8)


def _split(data: np.ndarray) -> list[str]:
    return name_text(data.tobytes()).split('\0')
