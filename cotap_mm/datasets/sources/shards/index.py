"""Index of tar shards: name, shard, start and size of each image."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np
from mmengine.logging import print_log

from cotap_mm.datasets.sources.folders.index_file import MAPPED, checked_names
from cotap_mm.datasets.sources.names import NameFacts, Names
from cotap_mm.files.atomic_write import atomic_write, name_bytes, name_text, printable
from cotap_mm.progress import track

from .headers import Members, read_headers
from .mapped import map_arrays
from .paths import COMPRESSED, INDEX_FILE, PLAN_FILE, SHARD_SUFFIX
from .stores import Facts, Folder, LocalFolder

_FORMAT = 'cotap_mm shards 1'
_THREADS = 16
_CHECKED = 64  # numbers of shards in a mapped index
_PACKED = ''  # version of shards that are recognized by their size alone


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
            and facts.version in (_PACKED, files[name].version)
            for name, facts in zip(self.shards, self.facts)
        )

    def digest(self) -> str:
        """Digest of the shards' names, sizes and versions."""
        lines = [f'{facts.size} {facts.version}\0' for facts in self.facts]
        data = b''.join(name_bytes(a) + b'\0' + b.encode() for a, b in zip(self.shards, lines))
        return hashlib.sha256(data).hexdigest()


def load_index(folder: Folder, shards: Sequence[str]) -> ShardIndex:
    """Load the index of some shards; build and save it if there is none that fits.

    Args:
        folder (LocalFolder | RemoteFolder): Where they are.
        shards (sequence[str]): Their names; all ``*.tar`` files of the folder if empty.

    Returns:
        ShardIndex: The index.

    Raises:
        FileNotFoundError: If the folder has no shards, a given shard is missing, or the shards
            contain no images.
        ValueError: If a shard is damaged or compressed, a packing is unfinished, or a name exists
            twice in a shard.
        OSError: If the folder cannot be read. Stores raise errors of other types.
    """
    files = folder.files()
    chosen = _choose(folder, files, shards)
    kept = _kept_at(folder)
    for saved in _saved(folder, files, kept):
        try:
            index = read_index(saved)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error):
            continue  # damaged; built again
        if index.fits(files, chosen):
            return index
    index = build_index(folder, files, chosen)
    _keep(index, folder, kept)
    return index


def _saved(
    folder: Folder, files: Mapping[str, Facts], kept: Optional[Path]
) -> Iterator[Union[bytes, Path]]:
    """Contents of the saved indexes, that beside the shards first; large ones as paths, to map.

    A large one of a store is copied to the user's cache once, and used there.
    """
    beside = files.get(INDEX_FILE)
    is_large = beside is not None and beside.size >= MAPPED
    if beside is not None and is_large and isinstance(folder, LocalFolder):
        yield Path(folder.root, INDEX_FILE)
    elif beside is not None and not is_large:
        yield folder.read(INDEX_FILE, 0, beside.size)
    if kept is not None and kept.is_file():
        yield kept if kept.stat().st_size >= MAPPED else kept.read_bytes()
    if beside is not None and is_large and not isinstance(folder, LocalFolder):
        data = folder.read(INDEX_FILE, 0, beside.size)
        yield kept if kept is not None and _write(kept, data) else data


def _choose(folder: Folder, files: Mapping[str, Facts], shards: Sequence[str]) -> list[str]:
    """Names of the shards to read, which must exist."""
    root = printable(folder.root)
    if PLAN_FILE in files and INDEX_FILE not in files:
        raise ValueError(
            f'{root} is an unfinished cotap pack; run the same cotap pack command again, which '
            'continues it'
        )
    compressed = [name for name in shards or files if name.lower().endswith(COMPRESSED)]
    chosen = list(shards) or sorted(
        name for name in files if name.lower().endswith(SHARD_SUFFIX) and not name.startswith('.')
    )
    if compressed and (shards or not chosen):
        raise ValueError(
            f'{printable(folder.title(compressed[0]))} is compressed, and images are read from '
            'uncompressed *.tar only; decompress it, e.g. with gunzip or zstd -d'
        )
    if not chosen:
        raise FileNotFoundError(
            f'{root} contains no *.tar; give a folder of shards of images, as written by cotap '
            'pack or in WebDataset format'
        )
    missing = [name for name in chosen if name not in files]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(chosen)} shards do not exist in {root}, the first is '
            f'{printable(missing[0])}; correct the pattern, or copy them'
        )
    return chosen


def build_index(
    folder: Folder, files: Mapping[str, Facts], shards: Sequence[str], is_packed: bool = False
) -> ShardIndex:
    """Read the headers of all shards.

    Args:
        folder (LocalFolder | RemoteFolder): Where they are.
        files (Mapping): Size and version of each.
        shards (sequence[str]): Their names.
        is_packed (bool): Whether the index is written with the shards, and goes where they are
            copied: it then does not depend on their times. Defaults to False.

    Returns:
        ShardIndex: The index.
    """

    def members_of(name: str) -> Members:
        with folder.open(name) as file:
            return read_headers(file, folder.title(name), is_packed)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(track(pool.map(members_of, shards), len(shards), 'headers of shards'))
    unusable = sum(members.unusable for members in found)
    if unusable:
        print_log(
            f'{printable(folder.root)}: skipped {unusable} images that are links or sparse files '
            'in their shard',
            logger='current',
            level=logging.WARNING,
        )
    names = _unique_names(folder, shards, found)
    if not names:
        raise FileNotFoundError(
            f'the {len(shards)} shards in {printable(folder.root)} contain no images'
        )
    facts = [files[name] for name in shards]
    return ShardIndex(
        list(shards),
        [each._replace(version=_PACKED) for each in facts] if is_packed else facts,
        names,
        np.repeat(np.arange(len(found), dtype=np.int32), [len(each.names) for each in found]),
        np.concatenate([np.array(each.starts, np.int64) for each in found]),
        np.concatenate([np.array(each.sizes, np.int64) for each in found]),
    )


def _unique_names(folder: Folder, shards: Sequence[str], found: list[Members]) -> Names:
    """Names of all images; with the name of the shard if several shards have the same ones."""
    for shard, members in zip(shards, found):
        if len(set(members.names)) < len(members.names):
            twice = Counter(members.names).most_common(1)[0][0]
            raise ValueError(
                f'{printable(folder.title(shard))} contains {printable(twice)} twice, and an '
                'image must not be its own neighbor; write the shard again without one of them'
            )
    names = [name for members in found for name in members.names]
    if len(set(names)) == len(names):
        return Names(names)
    return Names(f'{shard}/{name}' for shard, each in zip(shards, found) for name in each.names)


def index_bytes(index: ShardIndex) -> bytes:
    """Encode an index as ``*.npz``."""
    content = io.BytesIO()
    names, starts = index.names.arrays()
    facts = json.dumps(NameFacts.of(index.names)._asdict()).encode()
    np.savez(
        content,
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
    return content.getvalue()


def read_index(saved: Union[bytes, Path]) -> ShardIndex:
    """Decode what :func:`index_bytes` encoded.

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


def _kept_at(folder: Folder) -> Optional[Path]:
    """File in the user's cache for the index of a folder that cannot be written to."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join('~', '.cache')
    root = folder.root
    key = hashlib.sha256(
        name_bytes(os.path.realpath(root) if isinstance(folder, LocalFolder) else root)
    )
    try:
        return Path(home).expanduser() / 'cotap_mm' / 'shards' / f'{key.hexdigest()[:32]}.npz'
    except RuntimeError:  # no home directory
        return None


def _keep(index: ShardIndex, folder: Folder, kept: Optional[Path]) -> None:
    """Save an index beside its shards, or in the user's cache."""
    places = [Path(folder.root, INDEX_FILE)] if isinstance(folder, LocalFolder) else []
    data = index_bytes(index)
    for path in [*places, *([kept] if kept else [])]:
        if _write(path, data):
            return
    print_log(
        f'the index of {printable(folder.root)} cannot be saved, so it is built in every run; set '
        'XDG_CACHE_HOME to a folder that can be written to',
        logger='current',
        level=logging.WARNING,
    )


def _write(path: Path, data: bytes) -> bool:
    """Write a file atomically; returns whether that was possible."""
    try:
        with atomic_write(path) as part:
            part.write_bytes(data)
    except OSError:
        return False
    return True
